"""Time of the tokens after the prompt, one pass a token."""

from __future__ import annotations

from functools import partial

from allocmoe.metrics import phase
from allocmoe.metrics.metric import Measured, Tracked


def milliseconds(one: Measured) -> list[float]:
    """Of every round, per token."""
    return [1e3 * seconds / one.record.setup["decode"] for seconds in one.record.samples["decode_s"]]


def distinct(one: Measured) -> list[float]:
    """Experts that a layer loads in a step, for all sequences together: what decode pays for."""
    layers = one.record.spent["decode"]["distinct_per_layer"]
    return [sum(layers) / len(layers)]


METRIC = phase.metric(
    "decode",
    Tracked("decode_ms", "ms per token", milliseconds, single=False),
    Tracked("decode_relative", "% of the original's time", partial(phase.percent, "decode"), single=False),
    Tracked("distinct_experts", "experts per layer and decode step", distinct),
)
