"""Records grouped by what may be compared, and the rows and comparisons computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from allocmoe import documents, stats
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.stats import UNKNOWN, Interval

FOCUS, BASELINE, ORIGINAL, MEAN = "alloc-moe", "uniform", "original", "mean"
ALPHA = 0.05
JOIN_WITHIN = 0.02
"""A timed shape and a quality model rarely have the same L*K: budgets join if their shares are this close."""


@dataclass(frozen=True)
class Group:
    """Records that may be compared: one model, one setup, the latest per method and budget.

    Attributes:
        about: "quality", "speed" or "profile".
        label: model and text, or model and machine setting; distinct among the groups.
        setup: as recorded; a speed group's lacks the session.
        records: ordered as in METHODS, then by budget.
        originals: records of the method `original`, per session ("" where there is none).
        repeats: how many older records of the same method and budget were left out.
    """

    about: str
    label: str
    model: str
    fingerprint: str
    setup: dict[str, Any]
    records: tuple[Record, ...]
    originals: dict[str, Record]
    repeats: int

    def find(self, method: str, budget: int) -> Record | None:
        """The record of a method at a budget, of the original at its own whatever is asked."""
        return next(
            (r for r in self.records if r.method == method and (r.budget == budget or method == ORIGINAL)), None
        )


@dataclass(frozen=True)
class QualityRow:
    """One method at one budget: activations per token, perplexity, accuracies per group and their mean (0..1)."""

    method: str
    budget: int
    share: float
    spent: float
    perplexity: float
    ratio: Interval
    accuracy: dict[str, Interval]


@dataclass(frozen=True)
class SpeedRow:
    """One method at one budget: medians in milliseconds, and speedups over the original of its session."""

    method: str
    budget: int
    share: float
    metrics: dict[str, float]
    prefill: Interval
    decode: Interval


@dataclass(frozen=True)
class Comparison:
    """`method` against `other` at a budget. A verdict: "better", "worse", "~" (nothing shown), "" (not compared)."""

    method: str
    other: str
    budget: int
    ratio: Interval = UNKNOWN
    difference: Interval = UNKNOWN
    p: float = math.nan
    p_holm: float = math.nan
    notes: list[str] = field(default_factory=list)

    @property
    def perplexity(self) -> str:
        return _verdict(self.ratio, self.ratio.excludes(1), self.ratio.estimate < 1)

    @property
    def accuracy(self) -> str:
        """Shown only where the exact test and the interval of the mean agree."""
        shown = self.p_holm < ALPHA and self.difference.excludes(0)
        return _verdict(self.difference, shown, self.difference.estimate > 0)


def groups(records: Sequence[Record], about: str) -> list[Group]:
    """The comparable groups among the records about one thing, in order of first appearance."""
    members: dict[str, list[Record]] = {}
    for record in records:
        if record.about == about and (about == "profile" or (record.method and record.budget)):
            members.setdefault(documents.digest([record.fingerprint, _setup(record)]), []).append(record)
    found = []
    for rows in members.values():
        latest = {(r.method, r.budget): r for r in rows}
        ordered = tuple(sorted(latest.values(), key=lambda r: (rank(r.method or ""), r.budget or 0)))
        originals = {str(r.setup.get("session", "")): r for r in rows if r.method == ORIGINAL}
        model, weights, setup = rows[0].model, rows[0].fingerprint, _setup(rows[0])
        label = " · ".join(str(part) for part in (model, setup.get("text") or setup.get("engine")) if part)
        found.append(Group(about, label, model, weights, setup, ordered, originals, len(rows) - len(ordered)))
    return [replace(group, label=_distinct(group, found)) for group in found]


def rank(method: str) -> tuple[int, str]:
    """Sorts methods as the table of methods lists them, unknown ones last."""
    return (list(METHODS).index(method), "") if method in METHODS else (len(METHODS), method)


def methods(rows: Sequence[QualityRow] | Sequence[SpeedRow]) -> list[str]:
    """The methods among the rows, in the order of METHODS."""
    return sorted({row.method for row in rows}, key=rank)


def quality_rows(group: Group) -> list[QualityRow]:
    """A quality group's rows; intervals are unknown where the record keeps no samples."""
    original = next(iter(group.originals.values()), None)
    rows = []
    for record in group.records:
        tasks, named = record.samples.get("tasks", {}), record.details.get("groups", {})
        accuracies = {}
        for name in (*named, MEAN):
            if f"group/{name}" in record.metrics:
                parts = list(named.values()) if name == MEAN else [named[name]]
                known, _ = _try(stats.group_accuracy, tasks, parts)
                accuracies[name] = known._replace(estimate=record.metrics[f"group/{name}"])
        rows.append(
            QualityRow(
                *_point(record),
                _share(record, original),
                record.spent.get("per_token", math.nan),
                record.metrics.get("perplexity", math.nan),
                _perplexity(record, original)[0] if original else UNKNOWN,
                accuracies,
            )
        )
    return rows


def speed_rows(group: Group) -> list[SpeedRow]:
    """A speed group's rows; a record without the original of its own session has no speedup."""
    rows = []
    for record in group.records:
        original = group.originals.get(str(record.setup.get("session", "")))
        prefill, decode = (
            _try(stats.log_ratio, *(r.samples.get(f"{phase}_s", []) if r else [] for r in (original, record)))[0]
            for phase in ("prefill", "decode")
        )
        shown = original or next(iter(group.originals.values()), None)
        rows.append(SpeedRow(*_point(record), _share(record, shown), record.metrics, prefill, decode))
    return rows


def chance(group: Group) -> dict[str, float]:
    """Accuracy of guessing, per group of tasks and for their mean, as far as the records say it."""
    details = group.records[0].details
    named, levels = details.get("groups", {}), details.get("chance", {})
    found = {n: math.fsum(levels[t] for t in ts) / len(ts) for n, ts in named.items() if all(t in levels for t in ts)}
    return found | ({MEAN: math.fsum(found.values()) / len(found)} if found and len(found) == len(named) else {})


def comparisons(group: Group, method: str, budgets: Sequence[int] | None = None) -> list[Comparison]:
    """`method` against every other at each budget (and against the original), Holm over all of them."""
    found = []
    for record in reversed([r for r in group.records if r.method == method and (not budgets or r.budget in budgets)]):
        for name in dict.fromkeys(_point(r)[0] for r in group.records if r.method != method):
            other = group.find(name, _point(record)[1])
            if other:
                found.append(_compare(record, other))
    tested = [c.p for c in found if not math.isnan(c.p)]
    adjusted = iter(stats.holm(tested) if tested else [])
    return [c if math.isnan(c.p) else replace(c, p_holm=next(adjusted)) for c in found]


def join(quality: Sequence[QualityRow], speed: Sequence[SpeedRow]) -> list[tuple[QualityRow, SpeedRow]]:
    """Rows of one method at the nearest share of the original's activations, within JOIN_WITHIN."""
    pairs = []
    for row in quality:
        near = [s for s in speed if s.method == row.method and abs(s.share - row.share) <= JOIN_WITHIN]
        if near:
            pairs.append((row, min(near, key=lambda s: abs(s.share - row.share))))
    return pairs


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Pareto front of (gain, cost) points: indices by rising gain, none beaten in one and matched in the other."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1])):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept[::-1]


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The results as one JSON-able object; what has no samples to compute it from is null.

    Returns:
        {"quality": [...], "speed": [...]}, an entry per group with `model`, `fingerprint`, `setup`
        and `results`, a row per method and budget; quality entries also have `verdicts`, Alloc-MoE
        against every other method. Ratios are perplexity over the original's, speedups are the
        original's time over the method's, accuracies lie in 0..1.

    Raises AllocMoEError if no record is about quality or speed.
    """
    quality, speed = (groups(records, about) for about in ("quality", "speed"))
    if not quality and not speed:
        raise AllocMoEError(
            "there is no quality or speed record to report: measure with `allocmoe eval` or `allocmoe bench` first"
        )

    def about(group: Group) -> dict[str, Any]:
        return {"label": group.label, "model": group.model, "fingerprint": group.fingerprint, "setup": group.setup}

    def verdict(c: Comparison) -> dict[str, Any]:
        return asdict(c) | {"verdict": {"perplexity": c.perplexity, "accuracy": c.accuracy}}

    found = {
        "quality": [
            about(g)
            | {"results": list(map(asdict, quality_rows(g))), "verdicts": list(map(verdict, comparisons(g, FOCUS)))}
            for g in quality
        ],
        "speed": [about(g) | {"results": list(map(asdict, speed_rows(g)))} for g in speed],
    }
    return {name: plain(entries) for name, entries in found.items()}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: intervals as objects, what is not a number as null."""
    if isinstance(value, Interval):
        return {name: plain(number) for name, number in value._asdict().items()}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _setup(record: Record) -> dict[str, Any]:
    return {k: v for k, v in record.setup.items() if k != "session"}


def _distinct(group: Group, among: Sequence[Group]) -> str:
    same = [g for g in among if g.label == group.label]
    keys = sorted({k for g in same for k in g.setup if len({str(h.setup.get(k)) for h in same}) > 1})
    if len({g.fingerprint for g in same}) > 1:
        return f"{group.label} · weights {group.fingerprint[:8]}"
    return " · ".join([group.label, *(f"{k} {group.setup.get(k)}"[:40] for k in keys)])


def _point(record: Record) -> tuple[str, int]:
    return record.method or "", record.budget or 0


def _share(record: Record, original: Record | None) -> float:
    whole = record.details.get("original_budget") or (original.budget if original else None)
    return float(record.details.get("share") or (_point(record)[1] / whole if whole else math.nan))


def _try(compute: Callable[..., Interval], *arguments: Any) -> tuple[Interval, str]:
    try:
        return compute(*arguments), ""
    except AllocMoEError as error:
        return UNKNOWN, str(error)


def _perplexity(a: Record, b: Record) -> tuple[Interval, str]:
    if a.samples.get("window_tokens") != b.samples.get("window_tokens"):
        return UNKNOWN, "the two methods were measured on different windows"
    return _try(stats.perplexity_ratio, *(r.samples.get("nll", []) for r in (a, b)), a.samples.get("window_tokens", []))


def _compare(a: Record, b: Record) -> Comparison:
    ratio, note = _perplexity(a, b)
    named = list(a.details.get("groups", {}).values())
    tasks = [r.samples.get("tasks", {}) for r in (a, b)]
    difference, other_note = _try(stats.group_difference, *tasks, named) if any(tasks) else (UNKNOWN, "")
    p = stats.group_test(tasks[0], tasks[1], named) if math.isfinite(difference.estimate) else math.nan
    notes = [n for n in (note, other_note) if n]
    return Comparison(_point(a)[0], _point(b)[0], _point(a)[1], ratio, difference, p, notes=notes)


def _verdict(value: Interval, shown: bool, good: bool) -> str:
    word = ("better" if good else "worse") if shown else "~"
    return word if math.isfinite(value.estimate) else ""
