"""Time of the prompt: all of its tokens in one pass."""

from __future__ import annotations

from functools import partial

from allocmoe.metrics import phase
from allocmoe.metrics.metric import Measured, Tracked


def milliseconds(one: Measured) -> list[float]:
    """Of every round."""
    return [1e3 * seconds for seconds in one.record.samples["prefill_s"]]


METRIC = phase.metric(
    "prefill",
    Tracked("prefill_ms", "ms", milliseconds, single=False),
    Tracked("prefill_relative", "% of the original's time", partial(phase.percent, "prefill"), single=False),
)
