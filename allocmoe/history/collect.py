"""Records become series over commits: what may be compared from one commit to the next.

A series is one model, method, budget and metric, measured in one setup on one machine with one set of
versions. Times are taken relative to the unchanged model's in the same session.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from allocmoe import documents, metrics
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import METRICS, Measured
from allocmoe.records import Record
from allocmoe.records.views import conditions

ORIGINAL = "original"


@dataclass(frozen=True)
class Commit:
    """A commit of the history; `order` counts all that have a record, from 0.

    Dirty: changed files on top, which are a commit of their own; `changes` is their digest where it is known.
    """

    hash: str
    date: str
    dirty: bool
    order: int
    changes: str = ""

    @property
    def short(self) -> str:
        return self.hash[:10] + (f"+{self.changes[:8]}" if self.dirty else "")

    @property
    def day(self) -> str:
        return self.date[:10]


@dataclass(frozen=True)
class Point:
    """What was measured at a commit: one sample per record, sorted; times are ratios to the original's."""

    commit: Commit
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """One metric over commits.

    Attributes:
        engine: as its setup says, "" where it does not.
        label: model and text or engine, and what tells the setup from others of that name.
        points: at least one, in order of commits.
        commits: all commits of the history, in order; a series need not have a point at each.
    """

    model: str
    method: str
    budget: int
    metric: str
    engine: str
    label: str
    points: tuple[Point, ...]
    commits: tuple[Commit, ...]

    @property
    def values(self) -> list[float]:
        """A value per point; see `level`."""
        return [level(self.metric, [p]) for p in self.points]


def series(records: Sequence[Record]) -> list[Series]:
    """The series of some records, by model, metric, method and budget; commits in order of their dates.

    Raises AllocMoEError for a commit without a hash or with a date that is none.
    """
    known = [r for r in records if named(r)]
    commits = _commits(known)
    found: dict[tuple[str, str], dict[tuple[str, int, str], dict[Commit, list[float]]]] = {}
    groups: dict[tuple[str, str], Record] = {}
    for record, metric, value in _values(known):
        where = (record.about, documents.digest([record.model, conditions(record)]))
        groups.setdefault(where, record)
        points = found.setdefault(where, {}).setdefault((record.method or "", record.budget or 0, metric), {})
        points.setdefault(commits[_identity(record)], []).append(value)
    labels = _labels(groups)
    every = tuple(sorted(commits.values(), key=lambda c: c.order))
    made = []
    for where, members in found.items():
        first = groups[where]
        engine = str(first.setup.get("engine", ""))
        for (method, budget, metric), points in members.items():
            ordered = tuple(Point(c, tuple(sorted(points[c]))) for c in sorted(points, key=lambda c: c.order))
            made.append(Series(first.model, method, budget, metric, engine, labels[where], ordered, every))
    return sorted(made, key=lambda s: (s.label, metrics.order(s.metric), s.method, s.budget))


def named(record: Record) -> bool:
    """Whether a record says which commit it measured; only such records have a place in a history."""
    return bool(record.environment.get("commit"))


def level(metric: str, points: Sequence[Point]) -> float:
    """The median of points without noise, the geometric mean of ratios of times."""
    if metrics.get(metric).noise:
        return math.exp(float(np.mean([np.mean(np.log(p.samples)) for p in points])))
    return float(np.median([np.median(p.samples) for p in points]))


def _identity(record: Record) -> tuple[str, bool, str]:
    """Hash, whether files were changed on top, and the digest of the changes: as the gate tells commits apart."""
    commit = record.environment["commit"]
    try:
        return str(commit["hash"]), bool(commit.get("dirty")), str(commit.get("changes", ""))
    except (TypeError, KeyError, AttributeError):
        raise AllocMoEError(f"a record of {record.created} has a commit without a hash: measure it again") from None


def _commits(records: Sequence[Record]) -> dict[tuple[str, bool, str], Commit]:
    dates: dict[tuple[str, bool, str], tuple[datetime, int, bool, str]] = {}
    texts: dict[tuple[str, bool, str], str] = {}
    for record in records:
        identity, known = _identity(record), record.environment["commit"]
        text = str(known.get("date"))
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            raise AllocMoEError(
                f"commit {identity[0][:10]} has the date {text!r}, expected ISO 8601 like 2026-01-31T12:00:00+00:00"
            ) from None
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        # of one second: descendants later, a commit's changed files after it, what was measured first first
        at = (aware, int(known.get("ancestors", 0)), identity[1], record.created)
        dates[identity] = min(at, dates.get(identity, at))
        texts.setdefault(identity, text)
    ordered = sorted(dates, key=lambda identity: dates[identity])
    return {i: Commit(i[0], texts[i], i[1], order, i[2]) for order, i in enumerate(ordered)}


def _labels(groups: Mapping[tuple[str, str], Record]) -> dict[tuple[str, str], str]:
    """Model and text or engine of each group, with the conditions in which groups of one such name differ."""
    bases = {}
    for where, r in groups.items():
        what = r.setup.get("text") if r.about == "quality" else r.setup.get("engine")
        bases[where] = " · ".join(str(part) for part in (r.model, what) if part)
    labels = {}
    for where, base in bases.items():
        own = conditions(groups[where])
        others = [conditions(groups[w]) for w, b in bases.items() if b == base and w[0] == where[0]]
        keys = [k for k in sorted(own) if any(other.get(k) != own[k] for other in others)]
        labels[where] = " · ".join([base, *(f"{k} {own[k]}"[:40] for k in keys)])
    return labels


def _values(records: Sequence[Record]) -> list[tuple[Record, str, float]]:
    """(record, metric, value) of everything that is followed: a relative metric has none of the original."""
    originals: dict[tuple[Any, ...], Record] = {}
    for r in records:
        if r.method == ORIGINAL:
            originals.setdefault(_session(r), r)
    found: list[tuple[Record, str, float]] = []
    for r in records:
        if not r.method or not r.budget:
            continue
        for name, metric in METRICS.items():
            if r.about == metric.about[0] and metric.has(r) and not (metric.relative and r.method == ORIGINAL):
                one = Measured(r, originals.get(_session(r)) if metric.relative else None)
                value = metrics.value(name, [one])
                if math.isfinite(value):  # rounds that do not pair up, or are none, say nothing
                    found.append((r, name, value))
    return found


def _session(record: Record) -> tuple[Any, ...]:
    return record.about, _identity(record), record.setup.get("session"), documents.digest(conditions(record))
