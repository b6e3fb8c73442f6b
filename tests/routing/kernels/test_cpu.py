"""The compiled form of every token rule gives what the reference gives; and the reference is tested against loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.plan import Plan
from allocmoe.routing import RULES, Scoring
from tests.engines.loops import EXPERTS, assert_same, candidates, kept, kept_by_hand, masks, plans
from tests.routing.kernels.cases import BEYOND, PREFIX, Case, cases, differs

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def fused() -> Any:
    from allocmoe.routing.kernels import fused_on

    return fused_on(torch.device("cpu"))


def vars_of(case: Case) -> tuple[Any, ...]:
    return case.numbers, case.scoring, case.weights, case.ids, case.valid, case.logits, -1


def sweep(fused: Any, rule: str, count: int, seed: int) -> None:
    for number, case in enumerate(cases(count, seed, (rule,))):
        found = case.answer(fused)
        assert not (wrong := differs(case, found)), f"case {number} of seed {seed}: {case}: {wrong}"


@pytest.mark.parametrize("rule", [*PREFIX, *BEYOND])
def test_it_is_the_reference(fused: Any, rule: str) -> None:
    sweep(fused, rule, 400, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("rule", [*PREFIX, *BEYOND])
@pytest.mark.parametrize("seed", range(2, 12))
def test_it_is_the_reference_a_million_times(fused: Any, rule: str, seed: int) -> None:
    sweep(fused, rule, 10_000, seed)


@settings(deadline=None, max_examples=300)
@given(candidates(), plans(reference="original"), st.data())
def test_it_is_the_definition(fused: Any, given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    """Against the same loops as the reference, on scores that tie wherever they can."""
    weights, ids = given
    real = data.draw(masks(len(ids)))
    answer = PlannedLayer.of(plan, 0, -1, fused=fused)(weights, ids, real)
    assert_same(kept(*answer, -1), kept_by_hand(weights, ids, plan, real))
    assert all(t.is_contiguous() for t in answer)
    assert EXPERTS not in answer[1].tolist()


@pytest.mark.parametrize("tokens", [4096, 32768])
@pytest.mark.parametrize("rule", ["alloc_t", "top_k"])
def test_long_prompts(fused: Any, tokens: int, rule: str) -> None:
    logits = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(tokens)).bfloat16().float()
    weights, ids = logits.softmax(-1).topk(16)
    numbers = {"k": 7.0, "k_base": 1}
    expected = PlannedLayer(RULES[rule], numbers, 16, -1)(weights, ids, None)
    assert all(map(torch.equal, expected, fused(RULES[rule], numbers, Scoring(), weights, ids, None, logits, -1)))


@pytest.mark.parametrize("rule", PREFIX)
def test_a_score_that_is_no_number_comes_first(fused: Any, rule: str) -> None:
    """As the reference's sort has it: wrong weights stay visible, and no other token's change."""
    weights = torch.tensor([[0.5, float("nan"), 0.25, 0.125], [0.5, 0.25, 0.125, 0.0]])
    ids = torch.tensor([[3, 1, 4, 0]] * 2)
    for numbers in (
        {"k": 2.0, "k_base": 1, "threshold": 0.3, "fisher": 1.0},
        {"k": 3.0, "k_base": 0, "threshold": 0.6, "fisher": 2.0},
    ):
        expected = PlannedLayer(RULES[rule], numbers, 4, -1)(weights, ids, None)
        found = fused(RULES[rule], numbers, Scoring(), weights, ids, None, None, -1)
        assert torch.equal(expected[1], found[1])
        assert torch.allclose(expected[0], found[0], rtol=0, atol=0, equal_nan=True)


def test_biased_and_grouped_routers_choose_by_their_own_scores(fused: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    scoring = Scoring("sigmoid", True, 2.5, groups=4, open_groups=2, bias=torch.randn(32, generator=generator))
    for tokens in (1, 5, 8, 40):
        logits = torch.randn(tokens, 32, generator=generator)
        order, _ = scoring(logits, torch.zeros(tokens, 1, dtype=torch.long))
        ids = order.topk(6, dim=-1).indices
        weights = scoring(logits, ids)[1].gather(-1, ids)
        for rule, numbers in (
            ("refill", {"k": 2.0, "pairs": 6, "refill_tokens": 64}),
            ("cap", {"k": 2.0, "experts": 9, "pairs": 5, "refill_tokens": 64}),
        ):
            expected = PlannedLayer(RULES[rule], numbers, 6, -1, scoring=scoring)(weights, ids, None, logits)
            found = fused(RULES[rule], numbers, scoring, weights, ids, None, logits, -1)
            assert torch.equal(expected[1], found[1])
            assert torch.allclose(expected[0], found[0], rtol=1e-6, atol=0)


def test_what_it_has_no_form_of_is_left_to_the_reference(fused: Any) -> None:
    weights, ids = torch.rand(3, 4), torch.arange(4).repeat(3, 1)
    call = ({"k": 2.0}, Scoring(), weights, ids, None, None, -1)
    seen = {case.rule for case in cases(200, 0) if fused(RULES[case.rule], *vars_of(case)) is not None}
    assert seen == set(RULES)
    assert fused(RULES["top_k"], call[0], call[1], weights.double(), *call[3:]) is None
    assert fused(replace(RULES["top_k"], name="another"), *call) is None
