"""The share of experts that stay when a layer is pruned, and which ones: SEER-MoE and REAP."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocmoe.allocation.check import UnreachableError
from allocmoe.allocation.seer import experts_that_stay
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate, sweep
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.spec import MoESpec

SPEC = MoESpec("olmoe", 3, 6, 2, "softmax", False, 0, 0)
MARK = "f" * 16
COUNTS = [[5, 1, 4, 2, 3, 0], [1, 1, 1, 1, 1, 1], [0, 0, 9, 0, 8, 7]]
SALIENCY = [row[::-1] for row in COUNTS]
KNOWN = Sensitivity(SPEC, MARK, {"soft_counts": COUNTS, "saliency": SALIENCY})


def spec_of(layers: int, experts: int, top_k: int) -> MoESpec:
    return replace(SPEC, layers=layers, experts=experts, top_k=top_k)


@given(st.integers(1, 30), st.integers(1, 70), st.data())
def test_the_most_experts_that_the_budget_allows_spread_evenly(layers: int, experts: int, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, min(8, experts)))
    budget = data.draw(st.integers(layers, layers * top_k))
    spec = spec_of(layers, experts, top_k)
    # one expert is K / N of a layer's K activations: the most that fit, found by trying
    total = max(m for m in range(layers * experts + 1) if Fraction(top_k * m, experts) <= budget)
    least = next(m for m in range(top_k, experts + 1) if Fraction(top_k * m, experts) >= 1)
    try:
        found = experts_that_stay(spec, budget)
    except UnreachableError:
        assert total < layers * least
        return
    assert sum(found) == total
    assert max(found) - min(found) <= 1
    assert least <= min(found)
    assert max(found) <= experts


def test_what_cannot_be_pruned_says_what_can() -> None:
    spec = spec_of(4, 64, 3)  # 22 experts are the first to be worth an activation a layer
    with pytest.raises(UnreachableError, match=r"leaves 21.2 of 64 experts.*at least 22: give a budget of 5") as caught:
        experts_that_stay(spec, 4)
    assert "\n" not in str(caught.value)
    assert min(experts_that_stay(spec, 5)) >= 22


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("seer", [[1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 1, 1]]),
        ("reap", [[0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]]),
    ],
)
def test_the_highest_ranked_stay(method: str, kept: list[list[int]]) -> None:
    """Half of six; ties stay with the lower id."""
    plan = allocate(method, SPEC, MARK, 3, KNOWN)
    assert [list(row) for row in plan.parameters["kept"]] == kept
    assert plan.layers == (1.0, 1.0, 1.0)
    assert plan.origin["rank_by"] == {"seer": "soft_counts", "reap": "saliency"}[method]


def test_at_the_whole_budget_every_expert_stays() -> None:
    plan = allocate("seer", SPEC, MARK, 6, KNOWN)
    assert plan.parameters["kept"] == ((1,) * 6,) * 3


def test_a_ranking_can_be_chosen_among_those_there_are() -> None:
    assert allocate("seer", SPEC, MARK, 3, KNOWN, rank_by="saliency").parameters == (
        allocate("reap", SPEC, MARK, 3, KNOWN).parameters
    )
    with pytest.raises(AllocMoEError, match="cannot be ranked by 'perplexity': expected one of soft_counts, saliency"):
        allocate("seer", SPEC, MARK, 3, KNOWN, rank_by="perplexity")
    with pytest.raises(AllocMoEError, match=r"lacks saliency.*--quantity saliency"):
        allocate("reap", SPEC, MARK, 3, replace(KNOWN, quantities={"soft_counts": COUNTS}))


@pytest.mark.parametrize("scoring", ["sigmoid", "grouped softmax"])
def test_another_kind_of_router_is_left_out_of_a_sweep(scoring: str) -> None:
    spec = replace(SPEC, scoring=scoring)
    known = replace(KNOWN, spec=spec)
    with pytest.raises(UnreachableError, match=f"this model's is {scoring}"):
        allocate("seer", spec, MARK, 3, known)
    assert [p.method for p in sweep(SimpleNamespace(spec=spec, fingerprint=MARK), known, ["seer", "uniform"], [3])] == [
        "original",
        "uniform",
    ]
