"""The hump over depth: by hand, against a search over all schedules, and its properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from allocmoe.allocation.yang import yang
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate
from allocmoe.spec import MoESpec

SPEC = MoESpec("olmoe", 5, 64, 8, "softmax", False, 0, 0)


@pytest.mark.parametrize(
    ("layers", "top_k", "budget", "hump", "wanted"),
    [
        # the lines as they are
        (5, 8, 18, (2, 6, 2, 0.5), [2, 4, 6, 4, 2]),
        (6, 8, 27, (2, 8, 2, 0.6), [2, 4, 6, 8, 5, 2]),
        (4, 4, 10, (4, 1, 4, 0.0), [1, 2, 3, 4]),
        (4, 4, 10, (1, 4, 9, 1.0), [1, 2, 3, 4]),
        # times 21/19 beside the clipped 8: 2.2 4.4 6.6 8 5.5 2.2
        (6, 8, 29, (2, 8, 2, 0.6), [2, 4, 7, 8, 6, 2]),
        # times 3, and cut off
        (5, 8, 36, (2, 6, 2, 0.5), [6, 8, 8, 8, 6]),
        # halves are rounded up in earlier layers first
        (4, 8, 10, (2.5, 2.5, 2.5, 0.5), [3, 3, 2, 2]),
        (1, 8, 5, (1, 2, 3, 0.3), [5]),
    ],
)
def test_by_hand(
    layers: int, top_k: int, budget: int, hump: tuple[float, float, float, float], wanted: list[int]
) -> None:
    assert yang((layers, top_k), budget, *hump).tolist() == wanted


def target(layers: int, top_k: int, budget: int, b: float, h: float, e: float, p: float) -> np.ndarray:
    """The line by interpolation, its factor by root finding."""
    hump = int(np.floor(p * (layers - 1) + 0.5 + 1e-12))
    corners = {0: b, layers - 1: e} | {hump: h}
    line = np.interp(np.arange(layers), sorted(corners), [corners[i] for i in sorted(corners)])

    def missing(factor: float) -> float:
        return float(np.clip(factor * line, 1, top_k).sum() - budget)

    if budget in (layers, layers * top_k):
        return np.full(layers, budget / layers)
    return np.clip(brentq(missing, 0, top_k / line.min() + 1, xtol=1e-14) * line, 1, top_k)


numbers = st.integers(1, 16).map(lambda n: n / 2)
shares = st.integers(0, 8).map(lambda n: n / 8)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 5), st.integers(1, 5), numbers, numbers, numbers, shares, st.data())
def test_no_schedule_is_nearer_to_the_line(
    layers: int, top_k: int, b: float, h: float, e: float, p: float, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(layers, layers * top_k))
    line = target(layers, top_k, budget, b, h, e, p)
    every = [k for k in itertools.product(range(1, top_k + 1), repeat=layers) if sum(k) == budget]
    apart = [float(((np.array(k) - line) ** 2).sum()) for k in every]
    found = yang((layers, top_k), budget, b, h, e, p)
    assert float(((found - line) ** 2).sum()) <= min(apart) + 1e-6
    ties = [k for k, far in zip(every, apart, strict=True) if far <= min(apart) + 1e-6]
    assert tuple(found) == max(ties), "ties go to the earlier layer"


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(1, 10), st.floats(0.01, 50), st.floats(0.01, 50), st.floats(0.01, 50),
       st.floats(0, 1), st.data())  # fmt: skip
def test_it_spends_the_budget_and_has_one_hump(
    layers: int, top_k: int, b: float, h: float, e: float, p: float, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(layers, layers * top_k))
    found = yang((layers, top_k), budget, b, max(b, h, e), e, p)
    assert found.sum() == budget
    assert ((found >= 1) & (found <= top_k)).all()
    hump = int(np.floor(p * (layers - 1) + 0.5))
    up, down = found[: hump + 1], found[hump:]
    # less than 1 from a line that rises, or falls: no layer can be more than 1 below an earlier, or later, one
    assert (np.maximum.accumulate(up) - up <= 1).all()
    assert (np.maximum.accumulate(down[::-1]) - down[::-1] <= 1).all()


@pytest.mark.parametrize("name", ["b", "h", "e"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_line_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(AllocMoEError, match=f"^{name} of the hump"):
        yang((5, 8), 20, **{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_hump_outside_the_model_is_refused(value: float) -> None:
    with pytest.raises(AllocMoEError, match=r"^p of the hump"):
        yang((5, 8), 20, p=value)


def test_options_reach_the_schedule_and_the_plan() -> None:
    plan = allocate("yang", SPEC, "f" * 16, 18, b="2", h=6, e=2)
    assert plan.layers == (2, 4, 6, 4, 2)
    assert plan.origin == {"b": 2.0, "h": 6.0, "e": 2.0, "p": 0.5}
    assert allocate("yang", SPEC, "f" * 16, 20).layers == (3, 4, 6, 4, 3)
