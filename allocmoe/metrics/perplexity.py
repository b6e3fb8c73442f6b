"""Perplexity of held-out text: exp of the mean negative log-likelihood per token."""

from __future__ import annotations

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.metrics.metric import Measured, Measurements, Metric, Tracked, above
from allocmoe.records import Record
from allocmoe.stats import Shift


def has(record: Record) -> bool:
    return "perplexity" in record.metrics


def value(measured: Measurements) -> float:
    """As it was measured; it repeats to the last digits."""
    return float(measured[-1].record.metrics["perplexity"])


def compare(new: Measurements, old: Measurements, alpha: float) -> Shift:
    """The rise of its logarithm on the same windows, see `stats.perplexity_rise`."""
    mine, theirs = new[-1].record.samples, old[-1].record.samples
    if mine["window_tokens"] != theirs["window_tokens"]:
        raise AllocMoEError("the two were measured on different windows")
    return stats.perplexity_rise(mine["nll"], theirs["nll"], mine["window_tokens"], alpha)


def tracked(one: Measured) -> list[float]:
    return [value([one])]


METRIC = Metric(
    name="perplexity",
    title="perplexity",
    about=("quality",),
    unit="%",
    lower=True,
    noise=False,
    margin=1.0,
    minimum=0.002,
    counted="windows",
    value=value,
    compare=compare,
    broken=above,
    shown="{:.4f}".format,
    has=has,
    tracked=(Tracked("perplexity", "perplexity", tracked),),
)
