"""The router that plans put before a model's own, in vLLM's forward context, against float64 loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.engines.spent import Spent
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
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

pytestmark = pytest.mark.vllm
DROPPED = -1


def inner(choose: Callable[..., tuple[Tensor, Tensor]] | None = None) -> Any:
    """A model's own router: a softmax as it comes, or `choose` in its place."""
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    return CPURouter(TOP, EXPERTS, renormalize=False, custom_routing_function=choose)


def budgeted(plan: Plan | None, choose: Callable[..., tuple[Tensor, Tensor]] | None = None) -> Any:
    from allocmoe.engines.vllm.router import BudgetRouter

    router = BudgetRouter(inner(choose))
    router.rule = PlannedLayer.of(plan, 0, DROPPED) if plan else None
    return router


def forward(real: Tensor | None) -> AbstractContextManager[None]:
    """A forward pass whose rows are these."""
    from vllm.forward_context import ForwardContext, override_forward_context

    padding = None if real is None else ~real
    return override_forward_context(ForwardContext({}, {}, {}, is_padding=padding))


def logits(rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(rows, EXPERTS, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def route(router: Any, scores: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
    with forward(real):
        return router.select_experts(torch.zeros(len(scores), 8), scores, torch.int32)


def some(rows: int, seed: int = 5) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.6


def test_without_a_rule_it_is_the_models_router() -> None:
    scores, router, seen = logits(20), budgeted(None), []
    for dtype in (torch.int32, torch.int64):
        with forward(some(20)):
            expected = inner().select_experts(torch.zeros(20, 8), scores, dtype)
            for counter in (None, lambda *call: seen.append(call)):
                router.counter = counter
                answer = router.select_experts(torch.zeros(20, 8), scores, dtype)
                assert [t.dtype for t in answer] == [t.dtype for t in expected]
                assert all(map(torch.equal, answer, expected))
    assert len(seen) == 2
    assert (router.top_k, router.global_num_experts) == (TOP, EXPERTS)


def test_kernels_that_route_by_themselves_are_not_chosen() -> None:
    from vllm.model_executor.layers.fused_moe.config import RoutingMethodType

    assert budgeted(None).routing_method_type == RoutingMethodType.Custom
    assert inner().routing_method_type != RoutingMethodType.Custom


@pytest.mark.parametrize("reference", ["original", "survivors"])
@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_every_rule_on_a_routers_softmax(token_rule: str, reference: str) -> None:
    made, scores = plan(token_rule, reference=reference), logits(64)
    given = inner().select_experts(torch.zeros(64, 8), scores, torch.int32)
    for real in (None, some(64), torch.arange(64) < 40):
        answer = route(budgeted(made), scores, real)
        assert_same(kept(*answer, DROPPED), kept_by_hand(*given, made, real))


@settings(deadline=None, max_examples=150)
@given(candidates(), plans(), st.data())
def test_every_rule_with_every_tie(given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    """The model's router gives these candidates, in this order."""
    real = data.draw(masks(len(given[1])))
    router = budgeted(plan, lambda hidden_states, gating_output, topk, renormalize: given)
    answer = route(router, torch.zeros(len(given[1]), EXPERTS), real)
    assert_same(kept(*answer, DROPPED), kept_by_hand(*given, plan, real))
    assert all(t.is_contiguous() for t in answer)


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_padding_is_marked_and_neither_gives_nor_takes(token_rule: str) -> None:
    """Wherever it lies and whatever it scores, the tokens fare as without it."""
    router, real = budgeted(plan(token_rule)), some(48)
    alone = logits(48)[real]
    expected = kept(*route(router, alone), DROPPED)
    for junk in (0.0, 1e4, -1e4):
        padded = torch.full((48, EXPERTS), junk)
        padded[real] = alone
        weights, ids = route(router, padded, real)
        assert (ids[~real] == DROPPED).all()
        assert (weights[~real] == 0).all()
        assert ids.shape == (48, 2 if token_rule == "top_k" else TOP)
        assert_same(kept(weights[real], ids[real], DROPPED), expected)


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_padding_alone_keeps_nothing(token_rule: str) -> None:
    """vLLM's dummy runs, and the capture of a graph."""
    router, spent = budgeted(plan(token_rule, reference="survivors")), Spent(1, EXPERTS)
    router.counter = lambda ids, valid: spent.add(0, ids, valid)
    weights, ids = route(router, logits(6), torch.zeros(6, dtype=torch.bool))
    assert (ids == DROPPED).all()
    assert (weights == 0).all()
    assert spent.passes.tolist() == [0]


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_no_rows_at_all(token_rule: str) -> None:
    for real in (None, torch.zeros(0, dtype=torch.bool)):
        assert len(route(budgeted(plan(token_rule)), logits(0), real)[1]) == 0


@pytest.mark.parametrize("length", [0, 5, 7])
def test_a_mask_of_another_length_is_refused(length: int) -> None:
    router = budgeted(plan("alloc_t"))
    with pytest.raises(AllocMoEError, match=f"6 rows .* {length}") as caught:
        route(router, logits(6), torch.ones(length, dtype=torch.bool))
    assert "\n" not in str(caught.value)


def test_a_real_forward_pass_sets_the_mask() -> None:
    """vLLM's own context manager, which is what its runners enter."""
    from vllm.config import VllmConfig
    from vllm.forward_context import set_forward_context

    router, scores, real = budgeted(plan("alloc_t")), logits(8), torch.arange(8) < 5
    with set_forward_context(None, VllmConfig(), is_padding=~real):
        answer = router.select_experts(torch.zeros(8, 8), scores, torch.int32)
    assert all(map(torch.equal, answer, route(router, scores, real)))
    assert (answer[1][5:] == DROPPED).all()


def test_on_a_gpu_the_mask_is_not_looked_at() -> None:
    """There it is taken as it is, whatever it holds: to look would wait for the device."""
    from allocmoe.engines.vllm.router import real_rows

    elsewhere = torch.empty(6, TOP, device="meta")
    for real in (torch.arange(6) < 4, torch.ones(6, dtype=torch.bool)):
        with forward(real):
            assert torch.equal(real_rows(elsewhere), real)


def test_on_a_gpu_a_pass_without_a_mask_is_refused() -> None:
    """vLLM's V1 runner before 0.31: rows that fill up a captured graph would take budget."""
    from allocmoe.engines.vllm.router import real_rows

    with forward(None):
        with pytest.raises(AllocMoEError, match=r"does not say .* padding; plans work with .* 0\.31 to 0\.33 on CUDA"):
            real_rows(torch.empty(6, TOP, device="meta"))
        assert real_rows(torch.empty(6, TOP)) is None


def test_outside_of_a_forward_pass_every_row_is_real() -> None:
    router, scores = budgeted(plan("alloc_t")), logits(8)
    answer = router.select_experts(torch.zeros(8, 8), scores, torch.int32)
    assert all(map(torch.equal, answer, route(router, scores)))


def test_each_pass_has_its_own_padding() -> None:
    """What one layer learns of a pass holds for its other layers, and not for the next pass."""
    first, second, scores = budgeted(plan("alloc_t")), budgeted(plan("top_p")), logits(6)
    for real in (torch.arange(6) < 4, torch.arange(6) >= 3, torch.ones(6, dtype=torch.bool)):
        with forward(real):
            for router in (first, second):
                _, ids = router.select_experts(torch.zeros(6, 8), scores, torch.int32)
                assert torch.equal((ids >= 0).any(1), real)


@pytest.mark.parametrize("token_rule", [None, *TOKEN_RULES])
@pytest.mark.parametrize("padded", [False, True])
def test_the_counter_sees_what_is_returned(token_rule: str | None, padded: bool) -> None:
    router, spent = budgeted(plan(token_rule) if token_rule else None), Spent(1, EXPERTS)
    router.counter = lambda ids, valid: spent.add(0, ids, valid)
    load, tokens, distinct = torch.zeros(EXPERTS, dtype=torch.long), 0, 0
    for seed in range(3):
        real = some(30, seed) if padded else torch.ones(30, dtype=torch.bool)
        _, ids = route(router, logits(30, seed), real if padded else None)
        used = ids[real][ids[real] >= 0].long()
        load += used.bincount(minlength=EXPERTS)
        tokens, distinct = tokens + int(real.sum()), distinct + used.unique().numel()
    assert torch.equal(spent.load[0], load)
    assert (spent.tokens.item(), spent.distinct.item(), spent.passes.item()) == (tokens, distinct, 3)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_is_narrow_and_contiguous(k: int) -> None:
    """The CPU's kernel reads the ids as if they had no stride."""
    weights, ids = route(budgeted(plan("top_k", layers=(float(k),))), logits(9))
    assert weights.shape == ids.shape == (9, k)
    assert weights.is_contiguous()
    assert ids.is_contiguous()
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_ties_of_bf16_are_the_routers_to_order(token_rule: str) -> None:
    scores = (logits(200) * 2).round().div(2).bfloat16()
    given = inner().select_experts(torch.zeros(200, 8), scores, torch.int32)
    edge = given[0].sort(-1, descending=True).values
    assert (edge[:, 1] == edge[:, 2]).float().mean() > 0.1, "not tied enough to mean anything"
    for reference in ("original", "survivors"):
        made = plan(token_rule, reference=reference)
        answer = route(budgeted(made), scores)
        assert_same(kept(*answer, DROPPED), kept_by_hand(*given, made))
        assert all(map(torch.equal, answer, route(budgeted(made), scores)))


def test_a_rule_may_change_between_passes() -> None:
    router, scores = budgeted(None), logits(12)
    untouched = route(router, scores)
    for token_rule in TOKEN_RULES:
        router.rule = PlannedLayer.of(plan(token_rule), 0, DROPPED)
        assert (route(router, scores)[1] >= 0).sum() < untouched[1].numel()
    router.rule = None
    assert all(map(torch.equal, route(router, scores), untouched))
