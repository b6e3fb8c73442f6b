"""The LExI search against exact optima: Alloc-L's programme and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp

from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.lexi import lexi
from allocmoe.errors import AllocMoEError
from allocmoe.spec import PAPER_BUDGETS

SETTINGS = [(layers, top_k, b) for (layers, _, top_k), budgets in PAPER_BUDGETS.items() for b in budgets]


def distances(layers: int, top_k: int, seed: int, rough: bool = False) -> np.ndarray:
    """D_l(k): zero at K, growing as experts are dropped, layers of unequal weight.

    Smooth rows have growing steps, as real modules do; rough ones have heavy-tailed steps in any order.
    """
    rng = np.random.default_rng(seed)
    steps = rng.pareto(1.2, (layers, top_k - 1)) if rough else np.sort(rng.gamma(4, 1, (layers, top_k - 1)))
    weight = rng.lognormal(0, 0.7, (layers, 1))
    return np.hstack([weight * steps.cumsum(1)[:, ::-1], np.zeros((layers, 1))])


def total(cost: np.ndarray, k: np.ndarray) -> float:
    return float(cost[np.arange(len(k)), k - 1].sum())


@pytest.mark.parametrize(("layers", "top_k", "budget"), SETTINGS)
@pytest.mark.whole
def test_within_one_percent_of_the_programme(layers: int, top_k: int, budget: int) -> None:
    cost = distances(layers, top_k, seed=budget)
    best = alloc_l(cost, budget)
    assert best.sum() == budget  # the rows fall, so both problems are the same
    found = lexi(cost, budget)
    assert found.sum() == budget
    assert 1 <= found.min() <= found.max() <= top_k
    assert total(cost, found) <= 1.01 * total(cost, best) + 1e-12


@pytest.mark.parametrize(("layers", "top_k", "budget", "seed"), [(26, 6, 78, 1), (16, 8, 112, 2), (24, 4, 60, 3)])
@pytest.mark.whole
def test_within_one_percent_on_rough_rows(layers: int, top_k: int, budget: int, seed: int) -> None:
    cost = distances(layers, top_k, seed, rough=True)
    assert total(cost, lexi(cost, budget)) <= 1.01 * total(cost, alloc_l(cost, budget)) + 1e-12


@pytest.mark.whole
def test_near_the_optimum_at_an_exact_sum_on_pure_noise() -> None:
    """Rows that rise and fall: the budget must still be spent whole, so the oracle is an equality programme."""
    layers, top_k, budget = 16, 8, 80
    cost = 1 + np.random.default_rng(4).random((layers, top_k))
    one_each = np.kron(np.eye(layers), np.ones(top_k))
    spent = np.tile(np.arange(1, top_k + 1), layers)[None]
    best = milp(
        cost.ravel(),
        integrality=np.ones(cost.size),
        bounds=(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(spent, budget, budget)],
    )
    found = lexi(cost, budget)
    assert found.sum() == budget
    assert total(cost, found) <= 1.01 * best.fun


@pytest.mark.whole
def test_same_seed_same_result() -> None:
    cost = np.random.default_rng(5).random((6, 4))
    assert np.array_equal(lexi(cost, 15, seed=3), lexi(cost, 15, seed=3))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(AllocMoEError, match="the seed must not be negative, got -1"):
        lexi(np.random.default_rng(5).random((6, 4)), 15, seed=-1)


@pytest.mark.whole
def test_the_only_answer_at_both_ends() -> None:
    cost = distances(5, 3, 6)
    assert lexi(cost, 5).tolist() == [1] * 5
    assert lexi(cost, 15).tolist() == [3] * 5
    assert lexi(distances(1, 4, 7), 3).tolist() == [3]


@pytest.mark.parametrize(
    ("cost", "budget"),
    [
        (np.full((3, 4), np.nan), 6),
        (np.ones(4), 3),
        (np.ones((3, 4)), 2),
        (np.ones((3, 4)), 13),
        (np.ones((3, 4)), 5.5),
    ],
)
@pytest.mark.whole
def test_refusals_are_one_line(cost: np.ndarray, budget: float) -> None:
    with pytest.raises(AllocMoEError) as caught:
        lexi(cost, budget)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
