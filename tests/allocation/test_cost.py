"""Allocation by cost against brute force and integer programming; Alloc-D's layers against all that there are."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.cost import DISTINCT, PAIRS, STEPS, Cost, least_loss
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.spec import MoESpec

MARK = "0" * 16
Case = tuple[np.ndarray, np.ndarray, float]


@st.composite
def cases(draw: st.DrawFn, costs: st.SearchStrategy[float]) -> Case:
    """Losses in whole 8ths, so that sums are exact and ties are everywhere."""
    layers, options = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def table(of: st.SearchStrategy[float]) -> np.ndarray:
        row = st.lists(of, min_size=options, max_size=options)
        return np.array(draw(st.lists(row, min_size=layers, max_size=layers)))

    spent = table(costs)
    least, most = float(spent.min(1).sum()), float(spent.max(1).sum())
    return table(st.integers(0, 16).map(lambda n: n / 8)), spent, draw(st.floats(least, most + 1))


def best(loss: np.ndarray, steps: np.ndarray, most: int) -> tuple[int, ...] | None:
    """By trying all: least loss, then fewest steps, then later options in earlier layers; None if nothing fits."""
    rows = range(len(loss))
    found = [
        (sum(Fraction(loss[i, o]) for i, o in enumerate(chosen)), spent, tuple(-o for o in chosen))
        for chosen in product(range(loss.shape[1]), repeat=len(loss))
        if (spent := sum(int(steps[i, chosen[i]]) for i in rows)) <= most
    ]
    return tuple(-o for o in min(found)[2]) if found else None


@settings(deadline=None, max_examples=200)
@given(cases(st.integers(0, 12).map(float)))
def test_whole_costs_on_a_grid_of_ones_are_brute_force(case: Case) -> None:
    loss, costs, budget = case
    assert tuple(least_loss(loss, costs, budget, step=1.0)) == best(loss, costs, math.floor(budget + 1e-6))


@settings(deadline=None, max_examples=200)
@given(cases(st.floats(0, 12)), st.sampled_from([0.125, 0.5, 1.0]))
def test_on_any_grid_the_budget_holds_and_little_is_lost(case: Case, step: float) -> None:
    """The allocation is the best of the rounded ones; and no worse than any that leaves a step a layer."""
    loss, costs, budget = case
    steps = np.array([[math.ceil(c / step - 1e-6) for c in row] for row in costs])
    wanted = best(loss, steps, math.floor(budget / step + 1e-6))
    if wanted is None:
        refused("cannot be met", loss, costs, budget, step)
        return
    found = least_loss(loss, costs, budget, step)
    assert tuple(found) == wanted
    rows = np.arange(len(loss))
    assert costs[rows, found].sum() <= budget + 1e-6 * step * (len(loss) + 1)
    fewer = best(loss, np.ceil(costs * 1e6), math.floor((budget - step * (len(loss) + 1)) * 1e6))
    assert fewer is None or loss[rows, found].sum() <= loss[rows, list(fewer)].sum() + 1e-12


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_larger_cases_are_the_integer_programme(seed: int) -> None:
    """Times of a fitted machine, in whole microseconds."""
    rng = np.random.default_rng(seed)
    layers, options = int(rng.integers(2, 9)), int(rng.integers(2, 7))
    loss = np.sort(rng.random((layers, options)), axis=1)[:, ::-1]
    distinct, pairs = np.sort(rng.integers(1, 40, (2, layers, options)), axis=2)
    costs = Cost(layer=0.05, distinct=0.551, pairs=0.132).of(distinct, pairs)
    budget = float(rng.uniform(costs.min(1).sum() + 1e-3, costs.max(1).sum()))
    found = least_loss(loss, costs, budget, step=0.001)
    one = np.kron(np.eye(layers), np.ones(options))
    whole = milp(
        loss.ravel(), integrality=np.ones(loss.size), bounds=Bounds(0, 1), options={"mip_rel_gap": 0},
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(costs.reshape(1, -1), -np.inf, budget)],
    )  # fmt: skip
    rows = np.arange(layers)
    assert costs[rows, found].sum() <= budget + 1e-6
    assert loss[rows, found].sum() == pytest.approx(whole.fun, abs=1e-9)


def test_in_activations_it_is_alloc_l() -> None:
    rng = np.random.default_rng(3)
    loss = np.sort(rng.random((6, 5)), axis=1)[:, ::-1]  # no two sums are alike
    pairs = np.tile(np.arange(1, 6), (6, 1)).astype(float)
    for budget in range(6, 31):
        np.testing.assert_array_equal(least_loss(loss, PAIRS.of(pairs * 9, pairs), budget, 1.0) + 1,
                                      alloc_l(loss, budget))  # fmt: skip


def test_without_a_step_the_grid_has_so_many() -> None:
    """A cost that is a little over a part of the budget counts as one step more."""
    loss, costs = np.array([[1.0, 0.0]] * 2), np.array([[0.0, 0.5]] * 2)
    assert least_loss(loss, costs, 1.0).tolist() == [1, 1]
    assert least_loss(loss, costs + 0.25 / STEPS, 1.0).tolist() == [1, 0]


def test_options_may_be_pairs_of_k0_and_the_pairs_that_a_token_may_hold() -> None:
    """Layer 0 refills to 2 or 4, layer 1 likewise; a budget in time prefers what a cost per pair makes cheap."""
    loss = np.array([[0.5, 0.1], [0.4, 0.3]])
    distinct, pairs = np.full((2, 2), 10.0), np.array([[16.0, 32.0]] * 2)
    assert least_loss(loss, DISTINCT.of(distinct, pairs), 20.0, 1.0).tolist() == [1, 1]
    assert least_loss(loss, Cost(distinct=1.0, pairs=0.5).of(distinct, pairs), 44.0, 1.0).tolist() == [1, 0]


def refused(says: str, *args: Any) -> None:
    with pytest.raises(AllocMoEError, match=says) as caught:
        least_loss(*args)
    assert "\n" not in str(caught.value)


def test_what_is_none_is_refused() -> None:
    loss, costs = np.ones((2, 3)), np.ones((2, 3))
    refused("the cheapest allocation costs 2", loss, costs, 1.5)
    refused("the losses' shape", loss, np.ones((2, 2)), 5)
    refused("must not be negative", loss, -costs, 5)
    refused("not a finite number", loss * math.nan, costs, 5)
    for budget, step in ((math.nan, None), (math.inf, None), (-1, None), (5, 0), (5, -1), (5, math.nan)):
        refused("is none", loss, costs, budget, step)


LAYERS, TOP, PASSES = 3, 4, 8
SPEC = MoESpec("olmoe", LAYERS, 16, TOP, "softmax", False, 0, 0)


def profile(seed: int, batch: int = 8) -> Sensitivity:
    """Losses that mostly fall, distinct experts that rise by whole numbers of a pass."""
    rng = np.random.default_rng(seed)
    value = {
        "loss": (2 + rng.normal(0, 0.02, (LAYERS, TOP)) + rng.lognormal(-2, 1, (LAYERS, 1)) / np.arange(1, 5)).tolist(),
        "distinct": (rng.integers(1, 4 * PASSES, (LAYERS, TOP)).cumsum(1) / PASSES).tolist(),
        "pairs": [[20.0, 28.0, 30.0, 32.0]] * LAYERS,
        "batch": batch,
        "passes": PASSES,
    }
    return Sensitivity(SPEC, MARK, {"decode": value})


def by_trying(known: Sensitivity, budget: int) -> tuple[int, ...]:
    """In fractions: all k0 whose distinct experts are at most those of uniform top-(B / L)."""
    if budget == LAYERS * TOP:
        return (TOP,) * LAYERS
    found = known.quantity("decode")
    distinct = [[Fraction(d) for d in row] for row in found["distinct"]]
    low, part = divmod(Fraction(budget, LAYERS), 1)
    most = sum((1 - part) * row[int(low) - 1] + part * row[min(int(low), TOP - 1)] for row in distinct)
    offers = [
        (
            math.fsum(max(found["loss"][i][k - 1 :]) for i, k in enumerate(chosen)),
            sum(distinct[i][k - 1] for i, k in enumerate(chosen)),
            chosen,
        )
        for chosen in product(range(1, TOP + 1), repeat=LAYERS)
        if sum(distinct[i][k - 1] for i, k in enumerate(chosen)) <= most
    ]
    least = min(loss for loss, _, _ in offers)
    _, chosen = min((spent, tuple(-k for k in chosen)) for loss, spent, chosen in offers if loss < least + 1e-12)
    return tuple(-k for k in chosen)


@pytest.mark.parametrize("seed", range(8))
def test_alloc_d_is_the_best_of_all_that_touch_no_more_experts_than_uniform(seed: int) -> None:
    known = profile(seed)
    for budget in range(LAYERS, LAYERS * TOP + 1):
        plan = allocate("alloc-d", SPEC, MARK, budget, known)
        assert plan.layers == by_trying(known, budget)
        assert (plan.budget, plan.origin["batch"], plan.token_rule) == (budget, 8, "refill")


def test_a_plan_may_have_more_pairs_than_its_budget_where_experts_are_shared(tmp_path: Any) -> None:
    """Three experts a token of layer 0 are shared by all, so they are cheap."""
    known = profile(0)
    value = known.quantity("decode") | {
        "distinct": [[3.0, 3.5, 4.0, 4.5], [8.0, 16.0, 24.0, 32.0], [8.0, 16.0, 24.0, 32.0]],
        "loss": [[2.5, 2.4, 2.1, 2.0], [2.2, 2.15, 2.1, 2.0], [2.3, 2.15, 2.1, 2.0]],
    }
    plan = allocate("alloc-d", SPEC, MARK, 6, Sensitivity(SPEC, MARK, {"decode": value}))
    assert plan.layers == (4, 1, 2), "28.5 distinct experts, of 35.5"
    assert plan.exact_budget == 7 > plan.budget
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(AllocMoEError, match="over its budget"):
        Plan.from_dict(plan.to_dict() | {"token_rule": "top_k", "parameters": {}})


def test_a_batch_that_was_not_profiled_is_refused() -> None:
    assert allocate("alloc-d", SPEC, MARK, 6, profile(0, 4), batch=4).origin["batch"] == 4
    with pytest.raises(AllocMoEError, match=r"batches of 4, not 8: .*--decode-batch 8"):
        allocate("alloc-d", SPEC, MARK, 6, profile(0, 4), batch=8)
    with pytest.raises(AllocMoEError, match=r"lacks decode .*--quantity decode"):
        allocate("alloc-d", SPEC, MARK, 6, Sensitivity(SPEC, MARK, {}))
