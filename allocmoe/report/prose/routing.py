"""What plans cost by themselves, as `bench/routing.py` measured it."""

from __future__ import annotations

from collections.abc import Callable

from allocmoe.records import Record
from allocmoe.report.prose.forms import percents, table
from allocmoe.report.prose.sources import Sources
from allocmoe.report.style import name
from allocmoe.stats import Interval

ROWS = (
    ("identity", "the identity plan, over vLLM without the plugin", -1.0),
    ("routing", "{}: the routers' time over uniform's, of a step", 0.0),
    ("equal", "{}: a step over uniform's at equal distinct experts and pairs", 0.0),
)
"""Kinds of a record's metrics, what they are, and what to add: ratios are shown as differences."""


def routing(sources: Sources, file: str) -> str:
    """Of each record the shares of a decode step and of prefill, with their intervals."""
    rows = []
    for record in (r for r in sources.records(file) if r.about == "routing"):
        timed = f"{record.model.split(' (')[0]}, {record.setup['dtype']}"
        for kind, words, add in ROWS:
            methods = {
                n.split("/")[2]: None for n in record.metrics if n.split("/")[1:2] == [kind] and n.count("/") == 2
            }
            for method in methods or ([""] if f"decode/{kind}" in record.metrics else []):
                key = f"{kind}/{method}" if method else kind
                cells = [_share(record, f"{phase}/{key}", add) for phase in ("decode", "prefill")]
                rows.append([timed, words.format(name(method)) if method else words, *cells])
    return table(["timed on", "what", "decode", "prefill"], rows)


def _share(record: Record, metric: str, add: float) -> str:
    if metric not in record.metrics:
        return "-"
    low, high = record.details["intervals"][metric]
    return percents(Interval(record.metrics[metric] + add, low + add, high + add), True, sign=True)


ROUTING: dict[str, Callable[..., str]] = {"routing": routing}
