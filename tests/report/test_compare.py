"""Verdicts and the Pareto front."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report.compare import comparisons, front
from allocmoe.report.groups import groups
from tests.report.made import BUDGETS, plans, quality

pytestmark = pytest.mark.whole


def test_verdicts_state_a_difference_only_beyond_noise(records: list[Record]):
    (group,) = groups(records, "quality")
    verdicts = comparisons(group, "alloc-moe")
    assert len(verdicts) == len(BUDGETS) * (len(METHODS) - 1)
    worst = [c for c in verdicts if c.other == "uniform"][-1]
    assert (worst.perplexity, worst.accuracy) == ("better", "better")
    assert all(c.p_holm >= c.p for c in verdicts)
    assert groups([*records, records[0]], "quality")[0].repeats == 1
    twin = [replace(group.find("alloc-moe", b), method="naee") for b in BUDGETS]
    (same,) = groups([*twin, *(r for r in records if r.method == "alloc-moe")], "quality")
    even = [c for c in comparisons(same, "alloc-moe") if c.other == "naee"]
    assert [(c.perplexity, c.accuracy) for c in even] == [("~", "~")] * len(BUDGETS)


def test_different_items_are_not_compared():
    changed = [quality(*p, items=150 if p[0] == "uniform" else 200) for p in plans("uniform", "lexi", "alloc-moe")]
    changed = [replace(r, setup=changed[0].setup) for r in changed]
    verdicts = comparisons(groups(changed, "quality")[0], "alloc-moe")
    assert all(c.accuracy == "" and "different items" in c.notes[0] for c in verdicts if c.other == "uniform")


def test_the_front_holds_exactly_the_points_that_nothing_beats():
    rng = np.random.default_rng(0)
    points = [tuple(map(float, p)) for p in rng.integers(0, 8, (40, 2))]
    found = {points[i] for i in front(points)}
    beaten = {p for p in points if any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points)}
    assert found == set(points) - beaten
