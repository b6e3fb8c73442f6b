"""Rows of a group: one method at one budget, in numbers with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report.groups import Group
from allocmoe.report.style import MEAN, rank
from allocmoe.stats import UNKNOWN, Interval


@dataclass(frozen=True)
class QualityRow:
    """One method at one budget: activations per token, perplexity, accuracies per group and their mean (0..1), and
    KL divergence from the original (nats) and changed most likely tokens (0..1) where they were measured."""

    method: str
    budget: int
    share: float
    spent: float
    perplexity: float
    ratio: Interval
    accuracy: dict[str, Interval]
    kl: Interval = UNKNOWN
    flips: Interval = UNKNOWN


@dataclass(frozen=True)
class SpeedRow:
    """One method at one budget: medians in milliseconds, and speedups over the original of its session."""

    method: str
    budget: int
    share: float
    metrics: dict[str, float]
    prefill: Interval
    decode: Interval


def methods(rows: Sequence[QualityRow] | Sequence[SpeedRow]) -> list[str]:
    """The methods among the rows, in the order of METHODS."""
    return sorted({row.method for row in rows}, key=rank)


def quality_rows(group: Group) -> list[QualityRow]:
    """A quality group's rows, one per record; intervals are unknown where the record keeps no samples."""
    original = next(iter(group.originals.values()), None)
    return [
        QualityRow(
            *point(record),
            _share(record, original),
            record.spent.get("per_token", math.nan),
            record.metrics.get("perplexity", math.nan),
            perplexity_ratio(record, original)[0] if original else UNKNOWN,
            _accuracies(record),
            _mean(record, "kl"),
            _mean(record, "flips"),
        )
        for record in group.records
    ]


def speed_rows(group: Group) -> list[SpeedRow]:
    """A speed group's rows, one per record; one without the original of its own session has no speedup."""
    rows = []
    for record in group.records:
        original = group.originals.get(str(record.setup.get("session", "")))
        prefill, decode = (
            attempt(stats.log_ratio, *(r.samples.get(f"{phase}_s", []) if r else [] for r in (original, record)))[0]
            for phase in ("prefill", "decode")
        )
        shown = original or next(iter(group.originals.values()), None)
        rows.append(SpeedRow(*point(record), _share(record, shown), record.metrics, prefill, decode))
    return rows


def chance(group: Group) -> dict[str, float]:
    """Accuracy of guessing, per group of tasks and for their mean, as far as the records say it."""
    details = group.records[0].details
    named, levels = details.get("groups", {}), details.get("chance", {})
    found = {n: math.fsum(levels[t] for t in ts) / len(ts) for n, ts in named.items() if all(t in levels for t in ts)}
    return found | ({MEAN: math.fsum(found.values()) / len(found)} if found and len(found) == len(named) else {})


def point(record: Record) -> tuple[str, int]:
    """Method and budget of a record."""
    return record.method or "", record.budget or 0


def perplexity_ratio(a: Record, b: Record) -> tuple[Interval, str]:
    """Perplexity of a over that of b, paired by window; why there is none, else nothing."""
    if a.samples.get("window_tokens") != b.samples.get("window_tokens"):
        return UNKNOWN, "the two methods were measured on different windows"
    losses = (r.samples.get("nll", []) for r in (a, b))
    return attempt(stats.perplexity_ratio, *losses, a.samples.get("window_tokens", []))


def kl_difference(a: Record, b: Record) -> Interval:
    """KL divergence of a from the unchanged model less that of b, nats a token, paired by window; else UNKNOWN."""
    ours, theirs = (r.samples.get("kl", []) for r in (a, b))
    tokens = a.samples.get("window_tokens", [])
    if not len(ours) == len(theirs) == len(tokens) or tokens != b.samples.get("window_tokens"):
        return UNKNOWN
    return attempt(stats.mean, [x - y for x, y in zip(ours, theirs, strict=True)], tokens)[0]


def attempt(compute: Callable[..., Interval], *arguments: Any) -> tuple[Interval, str]:
    """An interval, or UNKNOWN and why the samples do not give one."""
    try:
        return compute(*arguments), ""
    except AllocMoEError as error:
        return UNKNOWN, str(error)
    except KeyError as error:  # results of another kind than these statistics take
        return UNKNOWN, f"the per-item results lack {error}"


def _accuracies(record: Record) -> dict[str, Interval]:
    """As recorded, the mean over groups of the mean over tasks; the intervals are of the samples."""
    tasks, named = record.samples.get("tasks", {}), record.details.get("groups", {})
    found = {}
    for name in (*named, MEAN):
        if f"group/{name}" in record.metrics:
            parts = list(named.values()) if name == MEAN else [named[name]]
            known, _ = attempt(stats.group_accuracy, tasks, parts)
            found[name] = known._replace(estimate=record.metrics[f"group/{name}"])
    return found


def _mean(record: Record, name: str) -> Interval:
    """As recorded, with the interval over windows; unknown where it was not measured."""
    if name not in record.metrics:
        return UNKNOWN
    found, _ = attempt(stats.mean, record.samples.get(name, []), record.samples.get("window_tokens", []))
    return found._replace(estimate=record.metrics[name])


def _share(record: Record, original: Record | None) -> float:
    whole = record.details.get("original_budget") or (original.budget if original else None)
    return float(record.details.get("share") or (point(record)[1] / whole if whole else math.nan))
