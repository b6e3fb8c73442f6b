"""Expert activations that were really spent per token, summed over layers: what a budget limits."""

from __future__ import annotations

import math

from allocmoe.metrics.metric import Measured, Measurements, Metric, Tracked, above
from allocmoe.records import Record
from allocmoe.stats import Shift


def has(record: Record) -> bool:
    return "per_token" in record.spent


def value(measured: Measurements) -> float:
    """As counted."""
    return float(measured[-1].record.spent["per_token"])


def compare(new: Measurements, old: Measurements, alpha: float) -> Shift:
    """Counted, not sampled: without an error, and without a test."""
    change = math.log(value(new) / value(old))
    return Shift(change, change, change, math.nan, 0.0, 0.0, math.inf, 1)


def tracked(one: Measured) -> list[float]:
    return [value([one])]


METRIC = Metric(
    name="activations",
    title="activations spent per token",
    about=("quality", "speed"),
    unit="%",
    lower=True,
    noise=False,
    margin=1.0,
    minimum=0.005,
    counted="",
    value=value,
    compare=compare,
    broken=above,
    shown="{:.2f}".format,
    has=has,
    tracked=(Tracked("activations", "activations per token", tracked),),
    apart=True,
)
