"""Layer budgets that follow from one threshold: along a curve, against a bisection of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.allocation import RULES, Request
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.routing import curve as curves
from allocmoe.spec import MoESpec

LAYERS, TOP = 3, 4
SPEC = MoESpec("olmoe", LAYERS, 8, TOP, "softmax", False, 0, 0)


@st.composite
def curve(draw: st.DrawFn) -> dict[str, Any]:
    """Rising thresholds from 1 to K in every layer; between, layers may also fall."""
    inner = draw(st.lists(st.lists(st.floats(1, TOP), min_size=LAYERS, max_size=LAYERS), max_size=5))
    limits = sorted(draw(st.lists(st.floats(0, 1), min_size=len(inner), max_size=len(inner), unique=True)))
    return {"threshold": [-1.0, *limits, 2.0], "kept": [[1] * LAYERS, *inner, [TOP] * LAYERS]}


def profile(name: str, found: dict[str, Any]) -> Sensitivity:
    return Sensitivity(SPEC, "0" * 16, {name: found, "fisher": [0.5] * LAYERS})


def kept_at(found: dict[str, Any], place: float) -> list[float]:
    """What layers keep so far along the curve, 2.25 a quarter behind the third row."""
    low = min(int(place), len(found["kept"]) - 2)
    share = place - low
    return [a + share * (b - a) for a, b in zip(found["kept"][low], found["kept"][low + 1], strict=True)]


def first_place(found: dict[str, Any], budget: float) -> float:
    """By bisection of the first piece in which the sum reaches the budget."""
    piece = next(i for i in range(len(found["kept"]) - 1) if sum(kept_at(found, i + 1)) >= budget)
    low, high = float(piece), float(piece + 1)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(kept_at(found, middle)) >= budget else (middle, high)
    return high


@settings(deadline=None, max_examples=150)
@given(curve(), st.integers(LAYERS, LAYERS * TOP), st.sampled_from(["adapmoe", "xmoe"]))
def test_layers_are_where_the_curve_first_spends_the_budget(found: dict[str, Any], budget: int, name: str) -> None:
    layers = RULES[name].allocate(Request(SPEC, budget, profile(name, found)))
    assert math.fsum(layers) == pytest.approx(budget, abs=1e-9)
    assert all(1 <= k <= TOP for k in layers)
    assert layers == pytest.approx(kept_at(found, first_place(found, budget)), abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(curve(), st.sampled_from(["adapmoe", "xmoe"]))
def test_a_plan_of_any_budget_is_one(found: dict[str, Any], name: str) -> None:
    """It spends its budget to 1e-6, and its threshold is monotone in it, even where the curve is not."""
    if name == "adapmoe":
        found = {"threshold": found["threshold"][::-1], "kept": found["kept"]}
    known = profile(name, found)
    plans = [allocate(name, SPEC, "0" * 16, b, known) for b in range(LAYERS, LAYERS * TOP + 1)]
    assert all(p.budget - 1e-6 <= p.exact_budget <= p.budget + 1e-6 for p in plans)
    limits = [p.parameters["threshold"] for p in plans]
    assert limits == sorted(limits, reverse=name == "adapmoe")
    # several thresholds may keep everything: the first of them is the budget's
    everything = next(t for t, row in zip(found["threshold"], found["kept"], strict=True) if sum(row) >= LAYERS * TOP)
    assert (limits[0], limits[-1]) == (found["threshold"][0], everything)


def test_thresholds_decades_apart_are_joined_geometrically() -> None:
    found = {"threshold": [1e-6, 1e-2], "kept": [[1.0], [3.0]]}
    assert curves.at(found, 2)[0] == pytest.approx(1e-4)
    assert curves.at(found | {"threshold": [-1.0, 1.0]}, 2)[0] == 0.0


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"threshold": [0.0], "kept": [[1, 1, 1], [4, 4, 4]]}, "1 thresholds and 2 rows"),
        ({"threshold": [], "kept": []}, "spends 6"),
        ({"threshold": [0.0], "kept": [[1, 1, 1]]}, "spends 6"),
        ({"threshold": [0.0], "kept": [[3, 3, 3]]}, "spends 6"),
    ],
)
def test_a_curve_that_does_not_reach_is_refused(found: dict[str, Any], says: str) -> None:
    with pytest.raises(AllocMoEError, match=says) as caught:
        curves.at(found, 6)
    assert "\n" not in str(caught.value)
