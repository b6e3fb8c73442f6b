"""Alloc-L against brute force in exact arithmetic and against scipy's integer programmes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from allocmoe.allocation.alloc_l import alloc_l, normalised
from allocmoe.errors import AllocMoEError
from allocmoe.spec import PAPER_BUDGETS

SETTINGS = [(layers, top_k, b) for (layers, _, top_k), budgets in PAPER_BUDGETS.items() for b in budgets]


def feasible(layers: int, top_k: int, budget: int) -> list[tuple[int, ...]]:
    return [k for k in itertools.product(range(1, top_k + 1), repeat=layers) if sum(k) <= budget]


@st.composite
def problems(draw: st.DrawFn, values: st.SearchStrategy[int]) -> tuple[list[list[int]], int]:
    """A small integer matrix and a budget it allows; few distinct values, so ties are common."""
    layers, top_k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    row = st.lists(values, min_size=top_k, max_size=top_k)
    table = draw(st.lists(row, min_size=layers, max_size=layers))
    return table, draw(st.integers(layers, layers * top_k))


@settings(deadline=None, max_examples=200)
@given(problems(st.integers(-2, 3)))
def test_raw_equals_brute_force_in_cost_and_tie_rule(problem: tuple[list[list[int]], int]) -> None:
    table, budget = problem
    cost = {k: sum(row[n - 1] for row, n in zip(table, k, strict=True)) for k in feasible(*np.shape(table), budget)}
    # of the cheapest: the larger total, then larger k in earlier layers
    expected = max((k for k in cost if cost[k] == min(cost.values())), key=lambda k: (sum(k), k))
    found = alloc_l(np.array(table), budget)
    assert found.dtype == np.int64
    assert tuple(found) == expected


@settings(deadline=None, max_examples=100)
@given(problems(st.integers(1, 6)))
def test_ratio_equals_brute_force_in_cost_and_tie_rule(problem: tuple[list[list[int]], int]) -> None:
    table, budget = problem
    for i, row in enumerate(table):
        row[-1] = 2 ** (i % 3)  # a power of two keeps S / S[:, K] exact in floating point, and ties with it
    cost = {
        k: sum(Fraction(row[n - 1], row[-1]) - 1 for row, n in zip(table, k, strict=True))
        for k in feasible(*np.shape(table), budget)
    }
    expected = max((k for k in cost if cost[k] == min(cost.values())), key=lambda k: (sum(k), k))
    assert tuple(alloc_l(np.array(table), budget, "ratio")) == expected


@settings(deadline=None, max_examples=100)
@given(problems(st.integers(1, 7)))
def test_log_minimises_the_product_of_the_entries(problem: tuple[list[list[int]], int]) -> None:
    table, budget = problem
    product = {
        k: math.prod(row[n - 1] for row, n in zip(table, k, strict=True)) for k in feasible(*np.shape(table), budget)
    }
    found = tuple(alloc_l(np.array(table), budget, "log").tolist())
    assert product[found] == min(product.values())


@settings(deadline=None, max_examples=50)
@given(problems(st.sampled_from([1, 1, 1, 1000])))
def test_log_tie_rule_where_the_logarithm_is_zero(problem: tuple[list[list[int]], int]) -> None:
    """log 1 = 0 exactly; where the optimum is free of cost, the tie rule must decide alone."""
    table, budget = problem
    free = [k for k in feasible(*np.shape(table), budget) if all(table[i][n - 1] == 1 for i, n in enumerate(k))]
    if free:
        expected = max(free, key=lambda k: (sum(k), k))
        assert tuple(alloc_l(np.array(table), budget, "log")) == expected


def test_constant_matrix_spends_all_and_favours_early_layers() -> None:
    assert alloc_l(np.ones((4, 3)), 7).tolist() == [3, 2, 1, 1]


def test_a_free_ride_is_not_bought_at_a_cost() -> None:
    """`sum k_l <= B`: where fewer experts are better, budget is left over."""
    rising = np.tile([1.0, 2.0, 3.0], (5, 1))
    assert alloc_l(rising, 12).tolist() == [1] * 5


@pytest.mark.parametrize(("layers", "top_k", "budget"), SETTINGS)
@pytest.mark.parametrize("how", ["raw", "ratio", "log"])
def test_equals_milp_on_the_shapes_of_the_paper(layers: int, top_k: int, budget: int, how: str) -> None:
    rng = np.random.default_rng(layers * budget)
    fall = rng.lognormal(0, 1, (layers, top_k)).cumsum(1)[:, ::-1] if budget % 4 else rng.random((layers, top_k)) * 3
    table = 9 + fall
    found = alloc_l(table, budget, how)
    assert found.sum() <= budget
    assert 1 <= found.min() <= found.max() <= top_k
    cost = {"raw": table, "ratio": table / table[:, -1:], "log": np.log(table)}[how]
    one_each = np.kron(np.eye(layers), np.ones(top_k))
    spent = np.tile(np.arange(1, top_k + 1), layers)
    best = milp(
        cost.ravel(),
        integrality=np.ones(layers * top_k),
        bounds=(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(spent[None], -np.inf, budget)],
        options={"mip_rel_gap": 0},
    )
    assert best.success
    assert cost[np.arange(layers), found - 1].sum() == pytest.approx(best.fun, rel=1e-9)


def test_normalised_is_what_it_says() -> None:
    table = np.array([[8.0, 4.0], [9.0, 3.0]])
    assert np.array_equal(normalised(table, "raw"), table)
    assert np.array_equal(normalised(table, "ratio"), [[1, 0], [2, 0]])
    assert np.allclose(np.exp(normalised(table, "log")), table)


@pytest.mark.parametrize(
    ("table", "budget", "how", "says"),
    [
        ([[1, math.nan], [1, 1]], 3, "raw", "not a finite number"),
        ([[1, math.inf], [1, 1]], 3, "raw", "not a finite number"),
        ([1, 2, 3], 3, "raw", "shape"),
        ([[[1, 2]]], 1, "raw", "shape"),
        (np.zeros((0, 4)), 0, "raw", "shape"),
        (np.zeros((4, 0)), 4, "raw", "shape"),
        (np.ones((3, 4)), 2, "raw", "outside 3..12"),
        (np.ones((3, 4)), 13, "raw", "outside 3..12"),
        (np.ones((3, 4)), 7.5, "raw", "whole"),
        (np.ones((3, 4)), math.nan, "raw", "whole"),
        (np.ones((3, 4)), math.inf, "raw", "whole"),
        (np.ones((3, 4)), 7, "softmax", "unknown normalisation"),
        (np.zeros((3, 4)), 7, "ratio", "positive"),
        (-np.ones((3, 4)), 7, "log", "positive"),
    ],
)
def test_refusals_are_one_line(table: object, budget: float, how: str, says: str) -> None:
    with pytest.raises(AllocMoEError, match=says) as caught:
        alloc_l(np.array(table), budget, how)
    assert "\n" not in str(caught.value)


def test_a_whole_float_budget_is_fine() -> None:
    assert alloc_l(np.ones((3, 4)), 7.0).sum() == 7


def test_the_caller_s_matrix_is_left_alone() -> None:
    table = np.arange(1.0, 13).reshape(3, 4)
    before = table.copy()
    for how in ("raw", "ratio", "log"):
        alloc_l(table, 6, how)
    assert np.array_equal(table, before)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_exact_spends_the_whole_budget_at_least_cost(seed: int, layers: int, top_k: int) -> None:
    """Also where the matrix is not monotone, as a measured one is not quite."""
    cost = np.random.default_rng(seed).random((layers, top_k)) + 1
    for budget in range(layers, layers * top_k + 1):
        found = alloc_l(cost, budget, exact=True)
        all_of_them = [k for k in itertools.product(range(1, top_k + 1), repeat=layers) if sum(k) == budget]
        best = min(sum(cost[i, n - 1] for i, n in enumerate(k)) for k in all_of_them)
        assert found.sum() == budget
        assert cost[np.arange(layers), found - 1].sum() == pytest.approx(best)
