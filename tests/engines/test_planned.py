"""One layer of a plan against a float64 loop over tokens and candidates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer, sort_candidates
from allocmoe.plan import Plan
from allocmoe.routing import RULES
from tests.engines.loops import (
    EXPERTS,
    TOKEN_RULES,
    TOP,
    assert_same,
    candidates,
    kept,
    kept_by_hand,
    masks,
    plan,
    plans,
)


@settings(deadline=None, max_examples=200)
@given(candidates(), plans(), st.data())
def test_every_rule_is_its_definition(given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    weights, ids = given
    real = data.draw(masks(len(ids)))
    for dropped in (-1, EXPERTS):
        answer = PlannedLayer.of(plan, 0, dropped)(weights, ids, real)
        assert_same(kept(*answer, dropped), kept_by_hand(weights, ids, plan, real))


@settings(deadline=None, max_examples=100)
@given(candidates(), plans(), st.data())
def test_what_a_token_keeps_comes_first_and_the_best_of_it_first(
    given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject
) -> None:
    """Kernels count on it for a single token."""
    weights, ids = PlannedLayer.of(plan, 0, -1)(*given, data.draw(masks(len(given[1]))))
    keep = ids >= 0
    assert (keep.int().diff(dim=1) <= 0).all()
    if ids.shape[1] < TOP or not keep.all():
        worth = weights * torch.tensor(plan.norms[0])[ids.long()] if plan.norms else weights
        assert (worth.diff(dim=1) <= 1e-6).all()


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_on_routed_scores(token_rule: str) -> None:
    """Scores of a softmax in another order than by size, and limits that no score lies on."""
    generator = torch.Generator().manual_seed(1)
    weights, ids = (torch.randn(200, EXPERTS, generator=generator) * 2).softmax(-1).topk(TOP, sorted=False)
    real = torch.rand(200, generator=generator) < 0.8
    for reference in ("original", "survivors", "top-3"):
        for limit in (0.1, 0.3, 0.7):
            own = RULES[token_rule].parameters
            limits = {"threshold": limit if own["threshold"].per == "plan" else (limit,)} if "threshold" in own else {}
            limits |= {"fisher": (1.5,)} if "fisher" in own else {}
            made = plan(token_rule, parameters=limits, reference=reference)
            for valid in (None, real):
                answer = PlannedLayer.of(made, 0)(weights, ids, valid)
                found = kept(*answer, EXPERTS)
                assert_same(found, kept_by_hand(weights, ids, made, valid))
                assert 0 < sum(map(len, found)) < weights.numel(), "nothing is told apart here"


def test_a_layer_has_its_own_numbers() -> None:
    weights, ids = torch.tensor([[0.5, 0.25, 0.125, 0.0625]]), torch.tensor([[3, 1, 4, 0]])
    made = plan("naee", budget=8, layers=(1.0, 4.0), parameters={"threshold": (2.0, 0.2)})
    assert [len(kept(*PlannedLayer.of(made, layer)(weights, ids, None), EXPERTS)[0]) for layer in (0, 1)] == [1, 3]


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_only_plain_top_k_gives_every_token_as_many(token_rule: str) -> None:
    rule = PlannedLayer.of(plan(token_rule), 0)
    assert rule.ragged is (token_rule != "top_k")
    weights, ids = torch.rand(3, TOP), torch.arange(TOP).repeat(3, 1)
    for real in (None, torch.tensor([True, False, True])):
        assert rule(weights, ids, real)[1].shape == (3, TOP if rule.ragged else 2)


def test_a_budget_in_a_tensor_is_ragged() -> None:
    """A captured graph has one shape, whatever the budget."""
    rule = PlannedLayer(RULES["top_k"], {"k": torch.tensor(2.0, dtype=torch.float64)}, TOP, -1)
    assert rule.ragged
    assert rule(torch.rand(3, TOP), torch.arange(TOP).repeat(3, 1), None)[1].shape == (3, TOP)


def test_all_k_are_left_as_the_router_gave_them() -> None:
    weights, ids = torch.tensor([[0.1, 0.3, 0.2, 0.4]]), torch.tensor([[7, 2, 9, 1]])
    for reference in ("original", "survivors"):
        for real in (None, torch.tensor([False])):  # padding is computed as it is without a plan
            answer = PlannedLayer.of(plan("top_k", layers=(4.0,), reference=reference), 0)(weights, ids, real)
            assert answer[0] is weights
            assert answer[1] is ids


def test_an_expert_with_a_large_output_is_kept_before_a_heavier_one() -> None:
    """By weight times norm; the weights themselves stay what they were."""
    weights, ids = torch.tensor([[0.5, 0.25, 0.125, 0.0625]]), torch.tensor([[3, 1, 4, 0]])
    norms = [1.0] * EXPERTS
    norms[4], norms[0] = 8.0, 2.0
    for token_rule in ("top_k", "alloc_t"):
        made = plan(token_rule, layers=(2.0,), norms=(tuple(norms),), scale=(1.5,))
        assert kept(*PlannedLayer.of(made, 0)(weights, ids, None), EXPERTS) == [{4: 0.1875, 3: 0.75}]


def test_weights_divide_by_the_heaviest_k2() -> None:
    """0.9375 in all, 0.75 the heaviest two: those that keep more than two divide by what they keep."""
    weights, ids = torch.tensor([[0.5, 0.25, 0.125, 0.0625]]), torch.tensor([[3, 1, 4, 0]])
    for k, mass in ((1.0, 0.75), (2.0, 0.75), (3.0, 0.875)):
        found = PlannedLayer.of(plan("top_k", layers=(k,), reference="top-2"), 0)(weights, ids, None)[0]
        assert found[0, 0] == pytest.approx(0.5 * 0.9375 / mass)


def test_ties_stay_in_the_routers_order() -> None:
    weights = torch.tensor([[0.25, 0.5, 0.25, 0.25], [0.25, 0.25, 0.5, 0.5]], dtype=torch.bfloat16)
    ids = torch.tensor([[7, 2, 9, 1], [5, 4, 8, 3]])
    assert sort_candidates(weights, ids)[1].tolist() == [[2, 7, 9, 1], [8, 3, 5, 4]]
    assert PlannedLayer.of(plan("top_k"), 0)(weights, ids, None)[1].tolist() == [[2, 7], [8, 3]]
    # 2.5 a token of two: one each, then 8, 3 and the first of the quarters
    assert kept(*PlannedLayer.of(plan("alloc_t"), 0)(weights, ids, None), EXPERTS) == [
        {2: 0.5, 7: 0.25, 9: 0.25},
        {8: 0.5, 3: 0.5},
    ]


@settings(deadline=None, max_examples=100)
@given(candidates(), plans(reference="survivors"), st.data())
def test_survivors_carry_the_original_mass(given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    weights, ids = given
    real = data.draw(masks(len(ids)))
    answer = PlannedLayer.of(plan, 0, -1)(weights, ids, real)
    for t, row in enumerate(kept(*answer, -1)):
        if any(row.values()):
            whole = float(weights[t].double().sum()) * (plan.scale[0] if plan.scale else 1.0)
            assert sum(row.values()) == pytest.approx(whole, rel=1e-5)


def with_padding(junk: float, made: Plan) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A row of junk between two tokens: the answer to all three, and to the tokens alone."""
    weights = torch.tensor([[0.5, 0.25, 0.125, 0.0625], [junk] * 4, [0.25, 0.25, 0.125, 0.0625]])
    ids, real = torch.tensor([[3, 1, 4, 0]] * 3), torch.tensor([True, False, True])
    rule = PlannedLayer.of(made, 0, -1)
    return rule(weights, ids, real), rule(weights[real], ids[real], None)


@pytest.mark.parametrize("reference", ["original", "survivors", "top-2"])
@pytest.mark.parametrize("token_rule", TOKEN_RULES)
@pytest.mark.parametrize("junk", [0.0, 1e30, -1.0, math.inf, math.nan])
def test_padding_keeps_nothing_and_takes_nothing(token_rule: str, reference: str, junk: float) -> None:
    (weights, ids), alone = with_padding(junk, plan(token_rule, reference=reference))
    assert ids[1].tolist() == [-1] * ids.shape[1]
    assert_same(kept(weights[::2], ids[::2], -1), kept(*alone, -1))


@pytest.mark.parametrize("reference", ["original", "survivors", "top-2"])
@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_padding_weighs_nothing(token_rule: str, reference: str) -> None:
    """Also where nobody wrote the row: 0 is no factor that makes an infinity or a NaN 0."""
    for junk in (0.0, 1e30, -1.0, math.inf, math.nan):
        (weights, _), _ = with_padding(junk, plan(token_rule, reference=reference))
        assert weights[1].tolist() == [0.0] * weights.shape[1], junk


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_what_it_is_given_is_left_alone(token_rule: str) -> None:
    weights, ids = torch.rand(5, TOP), torch.arange(TOP).repeat(5, 1)
    before = weights.clone(), ids.clone()
    PlannedLayer.of(plan(token_rule, reference="survivors"), 0)(weights, ids, torch.tensor([1, 0, 1, 1, 0]).bool())
    assert torch.equal(weights, before[0])
    assert torch.equal(ids, before[1])
