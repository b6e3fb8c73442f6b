"""Choosing among candidates, against looking at every budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.records.step import StepCost
from allocmoe.stats import Interval
from allocmoe.tune.candidates import NEAR, TRIED, Tried, grid, methods_for, nearest, predicted, ranked, refined
from allocmoe.tune.wish import Limit, Wish

LAYERS, TOP = 4, 8
BARE = Record("quality", "m", "f", "uniform", 4, "p", {}, {})


def tried(budget: int, speedup: float, lost: float, name: str = "uniform") -> Tried:
    each = [float(budget // LAYERS + (i < budget % LAYERS)) for i in range(LAYERS)]
    plan = Plan(name, budget, tuple(each), TOP, "top_k", "f" * 16, "olmoe", 16)
    return Tried(plan, BARE, BARE, Interval(lost, lost - 1, lost + 1), 1 / speedup, speedup)


@st.composite
def curves(draw: st.DrawFn) -> list[Tried]:
    budgets = sorted(draw(st.sets(st.integers(LAYERS, LAYERS * TOP - 1), min_size=1, max_size=6)))
    speeds = sorted(draw(st.lists(st.floats(0.8, 3), min_size=len(budgets), max_size=len(budgets))), reverse=True)
    losses = sorted(draw(st.lists(st.floats(-1, 30), min_size=len(budgets), max_size=len(budgets))), reverse=True)
    return [tried(b, s, x) for b, s, x in zip(budgets, speeds, losses, strict=True)]


@given(curves(), st.floats(1.01, 3))
def test_the_budget_for_a_speedup_is_the_largest_that_is_fast_enough(curve: list[Tried], aim: float) -> None:
    found = refined(curve, Wish(aim), aim, LAYERS)
    budgets = [t.plan.budget for t in curve]
    enough = [b for b in range(LAYERS, budgets[-1] + 1) if np.interp(b, budgets, [t.speedup for t in curve]) >= aim]
    assert found == (max(enough) if enough else LAYERS)


@given(curves(), st.floats(0, 20))
def test_the_budget_for_a_loss_is_the_smallest_that_loses_little_enough(curve: list[Tried], most: float) -> None:
    found = refined(curve, Wish(limit=Limit("perplexity", most)), None, LAYERS)
    budgets = [t.plan.budget for t in curve]
    little = [
        b for b in range(LAYERS, budgets[-1] + 1) if np.interp(b, budgets, [t.loss.estimate for t in curve]) <= most
    ]
    assert found == (min(little) if little else budgets[-1])


def test_no_curve_no_budget() -> None:
    assert refined([], Wish(1.5), 1.5, LAYERS) is None


@given(curves(), st.integers(LAYERS, LAYERS * TOP))
def test_the_nearest_measured_plan(curve: list[Tried], budget: int) -> None:
    found = nearest(curve, budget).budget
    assert found == min((t.plan.budget for t in curve), key=lambda b: (abs(b - budget), b))


def test_fast_enough_comes_before_cheap_and_then_what_loses_least() -> None:
    slow, fast, faster = tried(20, 1.2, 0.1), tried(12, 1.6, 5.0), tried(10, 1.7, 4.0)
    assert ranked([slow, fast, faster], Wish(1.5), 1.5) == [faster, fast, slow]
    assert ranked([slow, fast], Wish(2.0), 2.0) == [fast, slow], "where none is fast enough, the fastest"


def test_little_loss_comes_before_fast_and_then_what_is_fastest() -> None:
    slow, fast, faster = tried(20, 1.2, 0.1), tried(12, 1.6, 0.9), tried(10, 1.7, 4.0)
    wish = Wish(limit=Limit("perplexity", 1))
    assert ranked([faster, slow, fast], wish, None) == [fast, slow, faster]
    assert ranked([faster, tried(11, 1.6, 3.0)], wish, None)[0].loss.estimate == 3.0


@pytest.mark.parametrize(("layers", "top"), [(1, 2), (4, 3), (16, 8), (26, 6)])
def test_a_grid_holds_the_least_and_leaves_the_whole(layers: int, top: int) -> None:
    found = grid(layers, top)
    assert found[-1] == layers
    assert max(found) < layers * top
    assert found == sorted(set(found), reverse=True)


def test_a_threshold_is_priced_as_the_rule_that_sorts_a_batch() -> None:
    cost = StepCost({8: 10.0}, {"alloc_t": 0.5}, 0.25, 0.125)
    record = replace(BARE, spent={"distinct_per_layer": [4.0, 2.0], "per_layer": [2.0, 1.0]})
    assert predicted(cost, record, "threshold", 8) == predicted(cost, record, "alloc_t", 8) == 10.5 + 1.5 + 3.0
    with pytest.raises(AllocMoEError, match="naee"):
        predicted(cost, record, "naee", 8)


def test_methods_that_can_be_judged() -> None:
    assert methods_for(Wish(1.5), [], 8) == list(TRIED)
    near = methods_for(Wish(limit=Limit("kl", 0.02)), [], 8)
    assert set(near) == set(TRIED)
    assert near[: len(NEAR)] == list(NEAR)
    assert [n for n in near if n not in NEAR] == [n for n in TRIED if n not in NEAR]
    assert methods_for(Wish(limit=Limit("kl", 0.02)), ["uniform", "alloc-c"], 8) == ["uniform", "alloc-c"]
    small = {n for n in TRIED if METHODS[n].small_passes}
    assert set(methods_for(Wish(1.5), [], 1)) == set(TRIED) - small
    assert set(methods_for(Wish(limit=Limit("accuracy", 1)), [], 8)) == set(TRIED) - small
    assert methods_for(Wish(1.5), ["alloc-c-causal"], 8) == ["alloc-c-causal"]
    with pytest.raises(AllocMoEError, match="prefill"):
        methods_for(Wish(limit=Limit("accuracy", 1)), ["oea"], 8)
    with pytest.raises(AllocMoEError, match="one sequence at a time"):
        methods_for(Wish(1.5), ["oea"], 1)
    with pytest.raises(AllocMoEError, match="no fit times the token rule of naee"):
        methods_for(Wish(1.5), ["naee"], 8)
    with pytest.raises(AllocMoEError, match="unknown method 'magic'"):
        methods_for(Wish(1.5), ["magic"], 8)
