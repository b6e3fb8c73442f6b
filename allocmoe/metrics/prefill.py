"""Time of the prompt: all of its tokens in one pass."""

from __future__ import annotations

from functools import partial

from allocmoe.metrics import phase
from allocmoe.metrics.metric import Measured, Metric, Tracked, below


def milliseconds(one: Measured) -> list[float]:
    """Of every round."""
    return [1e3 * seconds for seconds in one.record.samples["prefill_s"]]


METRIC = Metric(
    name="prefill",
    title="prefill time over the original's",
    about=("speed",),
    unit="%",
    lower=True,
    noise=True,
    margin=3.0,
    minimum=0.02,
    counted="sessions a side",
    value=partial(phase.value, "prefill"),
    compare=partial(phase.compare, "prefill"),
    broken=below,
    shown="{:.3f}x".format,
    figure=phase.speedup,
    relative=True,
    own=(partial(phase.milliseconds, "prefill"), "{:.2f} ms".format),
    tracked=(
        Tracked("prefill_ms", "ms", milliseconds, single=False),
        Tracked("prefill_relative", "% of the original's time", partial(phase.percent, "prefill"), single=False),
    ),
)
