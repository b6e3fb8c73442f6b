"""Where a series changes, which commit did it, and which commits have not been measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allocmoe import metrics
from allocmoe.history import steps
from allocmoe.history.collect import Commit, Series, level


@dataclass(frozen=True)
class Change:
    """A step of a series.

    Attributes:
        commit: the first with the new level: the first bad one, if the direction is "worse".
        previous: the last one measured before it; `between` commits lie between, not measured.
        before, after: levels on either side, up to the next change.
        relative: after / before - 1, infinite from a level of 0.
        p: probability of a step as clear in noise alone; 0 where the metric has no noise.
    """

    series: Series
    commit: Commit
    previous: Commit
    before: float
    after: float
    relative: float
    direction: str
    p: float

    @property
    def between(self) -> int:
        return self.commit.order - self.previous.order - 1


@dataclass(frozen=True)
class Gap:
    """Commits, one after the other, where others were measured and this series was not, in no setup or machine.

    Attributes:
        last: whether the gap lasts to the newest commit.
    """

    series: Series
    commits: tuple[Commit, ...]
    last: bool


def changes(found: Sequence[Series], minimum: Mapping[str, float] | None = None) -> list[Change]:
    """The changes of all series, oldest commit first.

    Args:
        found: of `series`.
        minimum: smallest relative change that counts, metric -> share; the metrics have the defaults.

    Raises AllocMoEError for an unknown metric.
    """
    asked = {metrics.get(name).name: least for name, least in (minimum or {}).items()}
    made = []
    for one in found:
        metric = metrics.get(one.metric)
        least = asked.get(one.metric, metric.minimum)
        if metric.noise:
            cuts = steps.noisy([math.log(v) for v in one.values], math.log1p(least))
        else:
            cuts = steps.exact(one.values, least)
        borders = [0, *(c.at for c in cuts), len(one.points)]
        for number, cut in enumerate(cuts, start=1):
            before = level(one.metric, one.points[borders[number - 1] : cut.at])
            after = level(one.metric, one.points[cut.at : borders[number + 1]])
            direction = "worse" if (after > before) == metric.lower else "better"
            relative = after / before - 1 if before else math.inf
            here, last = one.points[cut.at].commit, one.points[cut.at - 1].commit
            made.append(Change(one, here, last, before, after, relative, direction, cut.p))
    return sorted(made, key=lambda c: c.commit.order)


def gaps(found: Sequence[Series]) -> list[Gap]:
    """Where a (model, method, budget, metric, engine) has no record in any setup, though the commit has others.

    Commits before its first record are no gap: it was not followed yet. A commit that breaks an engine
    begins one.
    """
    subjects: dict[tuple[Any, ...], list[Series]] = {}
    for one in found:
        subjects.setdefault((one.model, one.method, one.budget, one.metric, one.engine), []).append(one)
    made = []
    for members in subjects.values():
        measured = {p.commit for one in members for p in one.points}
        run: list[Commit] = []
        for commit in members[0].commits:
            if commit not in measured and (run or any(c.order < commit.order for c in measured)):
                run.append(commit)
            elif run:
                made.append(Gap(members[0], tuple(run), last=False))
                run = []
        if run:
            made.append(Gap(members[0], tuple(run), last=True))
    return sorted(made, key=lambda g: g.commits[0].order)


def title(one: Series) -> str:
    """Which series it is, for people."""
    return f"{metrics.get(one.metric).title} of {one.method} at {one.budget} ({one.label})"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def words(change: Change) -> str:
    """A change in one line: from what, to what, how sure."""
    sure = "exact" if not metrics.get(change.series.metric).noise else f"p = {change.p:.1g}"
    part = f"{change.relative:+.1%}" if math.isfinite(change.relative) else "from nothing"
    lost = f"; the {change.between} before it not measured" if change.between else ""
    return f"{title(change.series)}: {change.before:.4g} -> {change.after:.4g}, {part}, {sure}{lost}"
