"""Every metric, defined once: gate, history, floors, report and asv read it here and nowhere else.

    from allocmoe import metrics
    metrics.get("perplexity").margin

A new metric is one file that ends in `METRIC = Metric(...)`, one row in `METRICS`, and its oracle in
`tests/contracts/test_metrics.py`.
"""

from __future__ import annotations

import math

from allocmoe.errors import AllocMoEError
from allocmoe.metrics import accuracy, activations, decode, flips, kl, perplexity, prefill
from allocmoe.metrics.metric import MALFORMED, Measured, Measurements, Metric, Tracked

__all__ = [
    "MALFORMED", "METRICS", "Measured", "Measurements", "Metric", "Tracked", "get", "order", "settings", "value",
]  # fmt: skip

METRICS = {
    m.name: m
    for m in (
        perplexity.METRIC,
        kl.METRIC,
        flips.METRIC,
        accuracy.METRIC,
        activations.METRIC,
        prefill.METRIC,
        decode.METRIC,
    )
}
"""In the order in which they are shown."""


def get(name: str) -> Metric:
    """A metric by name. Raises AllocMoEError for a name that is not in the table."""
    if name not in METRICS:
        raise AllocMoEError(f"no metric {str(name)[:60]!r}: expected one of {', '.join(METRICS)}")
    return METRICS[name]


def order(name: str) -> int:
    """Its place in the table. Raises AllocMoEError for a name that is not in the table."""
    return list(METRICS).index(get(name).name)


def value(name: str, measured: Measurements) -> float:
    """Its value, NaN where the records do not tell it. Raises AllocMoEError for a name that is not in the table."""
    metric = get(name)
    try:
        return metric.value(measured) if measured else math.nan
    except (AllocMoEError, *MALFORMED):
        return math.nan


def settings(numbers: dict[str, float]) -> str:
    """Numbers by metric as an option takes them, for a help text."""
    return ", ".join(f"{name}={number:g}" for name, number in numbers.items())
