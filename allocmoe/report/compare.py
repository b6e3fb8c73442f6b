"""Methods of one group compared in pairs, and the points of a plane that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from allocmoe import stats
from allocmoe.records import Record
from allocmoe.report.groups import Group
from allocmoe.report.rows import attempt, kl_difference, perplexity_ratio, point
from allocmoe.stats import UNKNOWN, Interval

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """`method` against `other` at a budget. A verdict: "better", "worse", "~" (nothing shown), "" (not compared).

    Attributes:
        ratio: of the perplexities.
        difference: of the mean accuracies; `p` of its exact test, `p_holm` adjusted.
        kl: difference of the KL divergences from the unchanged model, nats; UNKNOWN where a record has none.
    """

    method: str
    other: str
    budget: int
    ratio: Interval = UNKNOWN
    difference: Interval = UNKNOWN
    kl: Interval = UNKNOWN
    p: float = math.nan
    p_holm: float = math.nan
    notes: list[str] = field(default_factory=list)

    @property
    def turned(self) -> Comparison:
        """The same, seen from the other method."""
        ratio = Interval(*(1 / v for v in (self.ratio.estimate, self.ratio.high, self.ratio.low)))
        difference = Interval(-self.difference.estimate, -self.difference.high, -self.difference.low)
        kl = Interval(-self.kl.estimate, -self.kl.high, -self.kl.low)
        return replace(self, method=self.other, other=self.method, ratio=ratio, difference=difference, kl=kl)

    @property
    def perplexity(self) -> str:
        return _verdict(self.ratio, self.ratio.excludes(1), self.ratio.estimate < 1)

    @property
    def divergence(self) -> str:
        return _verdict(self.kl, self.kl.excludes(0), self.kl.estimate < 0)

    @property
    def accuracy(self) -> str:
        """Shown only where the exact test and the interval of the mean agree."""
        shown = self.p_holm < ALPHA and self.difference.excludes(0)
        return _verdict(self.difference, shown, self.difference.estimate > 0)


def comparisons(group: Group, method: str, budgets: Sequence[int] | None = None) -> list[Comparison]:
    """`method` against every other at each budget (and against the original), Holm over all of them."""
    found = []
    for record in reversed([r for r in group.records if r.method == method and (not budgets or r.budget in budgets)]):
        for name in dict.fromkeys(point(r)[0] for r in group.records if r.method != method):
            other = group.find(name, point(record)[1])
            if other:
                found.append(_compare(record, other))
    return _adjusted(found)


def matrix(group: Group, budget: int) -> dict[tuple[str, str], Comparison]:
    """Every method of a group at a budget against every other one, (method, other) -> comparison; Holm over the pairs.

    The original is there at its own budget.
    """
    among = [r for name in dict.fromkeys(point(r)[0] for r in group.records) if (r := group.find(name, budget))]
    pairs = [(a, b) for i, a in enumerate(among) for b in among[i + 1 :]]
    compared = _adjusted([_compare(a, b) for a, b in pairs])
    return {(c.method, c.other): c for one in compared for c in (one, one.turned)}


def from_original(group: Group, record: Record) -> Interval:
    """Mean accuracy above the original's, paired by item; UNKNOWN where there are none."""
    whole = next(iter(group.originals.values()), None)
    named = list(record.details.get("groups", {}).values())
    if whole is None or not named:
        return UNKNOWN
    return attempt(stats.group_difference, *(r.samples.get("tasks", {}) for r in (record, whole)), named)[0]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Pareto front of (gain, cost) points: indices by rising gain, none beaten in one and matched in the other."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1])):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept[::-1]


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    tested = [c.p for c in found if not math.isnan(c.p)]
    adjusted = iter(stats.holm(tested) if tested else [])
    return [c if math.isnan(c.p) else replace(c, p_holm=next(adjusted)) for c in found]


def _compare(a: Record, b: Record) -> Comparison:
    ratio, note = perplexity_ratio(a, b)
    named = list(a.details.get("groups", {}).values())
    ours, theirs = (r.samples.get("tasks", {}) for r in (a, b))
    difference, other_note = attempt(stats.group_difference, ours, theirs, named) if ours or theirs else (UNKNOWN, "")
    p = stats.group_test(ours, theirs, named) if math.isfinite(difference.estimate) else math.nan
    notes = [n for n in (note, other_note) if n]
    return Comparison(point(a)[0], point(b)[0], point(a)[1], ratio, difference, kl_difference(a, b), p, notes=notes)


def _verdict(value: Interval, shown: bool, good: bool) -> str:
    word = ("better" if good else "worse") if shown else "~"
    return word if math.isfinite(value.estimate) else ""
