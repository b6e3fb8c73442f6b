"""The layer rules on the twelve settings of the paper, and the depth schedules on any shape."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.ascending import ascending
from allocmoe.allocation.descending import descending
from allocmoe.allocation.uniform import uniform
from allocmoe.errors import AllocMoEError
from allocmoe.spec import PAPER_BUDGETS, MoESpec

SETTINGS = [(layers, top_k, b) for (layers, _, top_k), budgets in PAPER_BUDGETS.items() for b in budgets]
OLMOE = MoESpec("olmoe", 16, 64, 8, "softmax", False, 0, 0)


def falling(layers: int, top_k: int, seed: int) -> np.ndarray:
    """A random matrix whose rows strictly fall with k, so that every budget is worth spending."""
    return 1 + np.random.default_rng(seed).gamma(1, 1, (layers, top_k)).cumsum(1)[:, ::-1]


def lowest_k_min(layers: int, top_k: int, budget: int) -> int | None:
    """The smallest start of a 0/1-step path that ends at K and can sum to the budget, from its two extreme paths.

    Any sum between the extremes is reached by moving one inner layer at a time.
    """
    for low in range(max(1, top_k - layers + 1), top_k + 1):
        flat = [low] * (layers - (top_k - low + 1))
        least, most = [*flat, *range(low, top_k + 1)], [*range(low, top_k + 1)] + [top_k] * len(flat)
        if sum(least) <= budget <= sum(most) and least[0] == most[0]:
            return low
    return None


@pytest.mark.parametrize(("layers", "top_k", "budget"), SETTINGS)
@pytest.mark.parametrize("rule", ["uniform", "ascending", "descending", "alloc_l"])  # lexi: in its own file
def test_every_rule_spends_the_paper_s_budget_exactly(rule: str, layers: int, top_k: int, budget: int) -> None:
    if rule == "alloc_l":
        k = alloc_l(falling(layers, top_k, budget), budget)
    else:
        k = {"uniform": uniform, "ascending": ascending, "descending": descending}[rule]((layers, top_k), budget)
    assert k.shape == (layers,)
    assert np.issubdtype(k.dtype, np.integer)
    assert k.sum() == budget
    assert 1 <= k.min() <= k.max() <= top_k


@pytest.mark.parametrize(("layers", "top_k", "budget"), SETTINGS)
def test_schedules_of_the_paper_are_monotone_lines(layers: int, top_k: int, budget: int) -> None:
    up = ascending((layers, top_k), budget)
    assert set(np.diff(up)) <= {0, 1}
    assert up[0] == (3 if (top_k, budget) == (8, 112) else 1)
    assert up[0] == lowest_k_min(layers, top_k, budget)
    assert up[-1] == top_k
    assert np.array_equal(descending((layers, top_k), budget), up[::-1])


def test_ascending_stays_near_its_line() -> None:
    """Nothing to mend: the rounded line itself, halves upwards."""
    line = [1 + Fraction(7 * i, 15) for i in range(16)]
    rounded = [int(x + Fraction(1, 2)) for x in line]
    assert ascending((16, 8), sum(rounded)).tolist() == rounded
    nearby = ascending((16, 8), sum(rounded) + 2)
    assert np.abs(nearby - np.array(rounded)).sum() == 2


def ascending_by_hand(layers: int, top_k: int, budget: int) -> list[int] | None:
    """The rule in exact fractions, for models at least as deep as K, whose rounded line needs no passes."""
    for low in range(1, top_k + 1):
        line = [low + Fraction((top_k - low) * i, layers - 1) for i in range(layers)]
        k = [int(x + Fraction(1, 2)) for x in line]
        while sum(k) != budget:
            step = 1 if sum(k) < budget else -1
            legal = {
                i: step * (line[i] - k[i])
                for i in range(1, layers - 1)
                if k[i] + step - k[i - 1] in (0, 1) and k[i + 1] - k[i] - step in (0, 1)
            }
            if not legal:
                break
            k[min(i for i in legal if legal[i] == max(legal.values()))] += step  # ties to the lower index
        else:
            return k
    return None


@pytest.mark.parametrize(("layers", "top_k", "budget"), SETTINGS)
def test_ascending_of_the_paper_equals_the_rule_in_fractions(layers: int, top_k: int, budget: int) -> None:
    assert ascending((layers, top_k), budget).tolist() == ascending_by_hand(layers, top_k, budget)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(2, 8))
def test_ascending_equals_the_rule_in_fractions(data: st.DataObject, top_k: int) -> None:
    layers = data.draw(st.integers(top_k, 30))
    budget = data.draw(st.integers(layers, layers * top_k))
    expected = ascending_by_hand(layers, top_k, budget)
    if expected is not None:
        assert ascending((layers, top_k), budget).tolist() == expected


@pytest.mark.parametrize(("layers", "top_k", "budget"), SETTINGS)
def test_uniform_of_the_paper_equals_the_formula(layers: int, top_k: int, budget: int) -> None:
    share = Fraction(budget, layers)
    expected = [int((i + 1) * share) - int(i * share) for i in range(layers)]
    assert uniform((layers, top_k), budget).tolist() == expected


def test_uniform_alternates_at_two_and_a_half() -> None:
    assert uniform((24, 4), 60).tolist() == [2, 3] * 12


def test_a_spec_does_as_well_as_a_pair() -> None:
    for rule in (uniform, ascending, descending):
        assert np.array_equal(rule(OLMOE, 96), rule((16, 8), 96))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    layers, top_k = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    return layers, top_k, draw(st.integers(layers, layers * top_k))


@settings(deadline=None)
@given(shapes())
def test_uniform_on_any_shape(shape: tuple[int, int, int]) -> None:
    layers, top_k, budget = shape
    k = uniform((layers, top_k), budget)
    assert k.sum() == budget
    assert 1 <= k.min() <= k.max() <= top_k
    assert k.max() - k.min() <= 1
    # no prefix is ever a whole expert away from its even share
    assert np.all(k.cumsum() * layers <= np.arange(1, layers + 1) * budget)
    assert np.all(k.cumsum() * layers > np.arange(1, layers + 1) * budget - layers)


@settings(deadline=None, max_examples=200)
@given(shapes())
def test_schedules_on_any_shape(shape: tuple[int, int, int]) -> None:
    layers, top_k, budget = shape
    lowest = lowest_k_min(layers, top_k, budget)
    try:
        up = ascending((layers, top_k), budget)
    except AllocMoEError:
        up = None
    if up is None:
        assert lowest is None, "a line reaches this budget"
        return
    assert up.sum() == budget
    assert 1 <= up.min() <= up.max() <= top_k
    assert set(np.diff(up)) <= {0, 1}
    assert np.array_equal(descending((layers, top_k), budget), up[::-1])
    if layers >= top_k:  # deep enough for every line to climb to K
        assert up[0] == lowest
        assert up[-1] == top_k


@pytest.mark.parametrize("rule", [uniform, ascending, descending])
@pytest.mark.parametrize(
    ("shape", "budget"),
    [((4, 3), 3), ((4, 3), 13), ((4, 3), 6.5), ((4, 3), float("nan")), ((0, 3), 0), ((4, 0), 4)],
)
def test_impossible_requests_are_refused_in_one_line(rule: object, shape: tuple[int, int], budget: float) -> None:
    with pytest.raises(AllocMoEError) as caught:
        rule(shape, budget)  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_a_schedule_that_no_line_gives_is_refused() -> None:
    with pytest.raises(AllocMoEError, match="no ascending schedule") as caught:
        ascending((2, 8), 8)
    assert "\n" not in str(caught.value)
