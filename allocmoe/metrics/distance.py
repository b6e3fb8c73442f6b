"""What kl and flips share: means over the windows of a text, both told by a record of full logits alone."""

from __future__ import annotations

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.metrics.metric import Measured, Measurements
from allocmoe.records import Record
from allocmoe.stats import Shift


def has(name: str, record: Record) -> bool:
    """False for records from before there was the metric, and for engines that give the likeliest tokens alone."""
    return name in record.metrics


def value(name: str, measured: Measurements) -> float:
    """As it was measured; it repeats to the last digits."""
    return float(measured[-1].record.metrics[name])


def compare(name: str, new: Measurements, old: Measurements, alpha: float) -> Shift:
    """The rise of the mean on the same windows, see `stats.mean_rise`."""
    mine, theirs = new[-1].record.samples, old[-1].record.samples
    if mine["window_tokens"] != theirs["window_tokens"]:
        raise AllocMoEError("the two were measured on different windows")
    return stats.mean_rise(mine[name], theirs[name], mine["window_tokens"], alpha)


def tracked(name: str, factor: float, one: Measured) -> list[float]:
    """For asv, in its unit."""
    return [factor * value(name, [one])]
