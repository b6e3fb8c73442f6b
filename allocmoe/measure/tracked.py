"""What a benchmark tracker (asv) shows of a suite's records: figures by metric, model, method, share and engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.metrics import METRICS, Measured
from allocmoe.records import Record
from allocmoe.spec import PAPER_BUDGETS

if TYPE_CHECKING:
    from allocmoe.measure.suite import Suite

Key = tuple[str, str, str, float, str]  # a metric's tracked name, model, method, share of L * K, engine


def shares(suite: Suite) -> list[float]:
    """Every share of L * K that a suite may measure, as `values` names them."""
    paper = [b / layers / top_k for (layers, _, top_k), budgets in PAPER_BUDGETS.items() for b in budgets]
    return sorted({round(share, 4) for share in suite.shares or paper}, reverse=True)


def values(found: Sequence[Record]) -> Iterator[tuple[Key, Any]]:
    """What each metric has asv track (`Metric.tracked`), lower is better: figures, and {"samples": [...], "number": 1}.

    Samples are of all sessions. The original's share is 1; quality's engine "transformers".

    Raises AllocMoEError for a speed record without the original of its session.
    """
    samples: dict[Key, list[float]] = {}
    originals = {_session(r): r for r in found if r.method == "original"}
    for record in found:
        if record.method is None:
            continue
        for metric in METRICS.values():
            if record.about != metric.about[0] or not metric.has(record):
                continue
            share = round(float(record.details["share"]), 4)
            engine = str(record.setup.get("engine", "transformers"))
            for one in metric.tracked:
                key = one.name, record.model, record.method, share, engine
                figures = one.samples(Measured(record, originals.get(_session(record))))
                if one.single:
                    yield key, figures[0]
                else:
                    samples.setdefault(key, []).extend(figures)
    for key, measured in samples.items():
        yield key, {"samples": measured, "number": 1}


def _session(record: Record) -> tuple[str, str, Any]:
    return record.about, record.model, record.setup.get("session")
