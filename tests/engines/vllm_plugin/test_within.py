"""Rules that look beyond the router's K experts: under captured graphs, in vLLM's router and before its kernel."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captured import CPU, DROPPED, budgeted, fixed, on, other
from test_install import worker_of
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.errors import AllocMoEError
from tests.engines.loops import EXPERTS, LOGIT_RULES, TOP, assert_same, kept, kept_by_hand, plan

pytestmark = pytest.mark.vllm
META = torch.device("meta")


def some(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(tokens, EXPERTS, generator=torch.Generator().manual_seed(seed)) * 2
    weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
    return logits, weights, ids.int()


@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_numbers_in_tensors_change_nothing(rule: str) -> None:
    for tokens in (1, 2, 9, 20, 21, 40):
        logits, weights, ids = some(tokens, tokens)
        for made in (plan(rule), other(plan(rule))):
            for real in (None, torch.arange(tokens) % 2 == 0):
                answer = kept(*on(CPU, made)(weights, ids, real, logits), DROPPED)
                assert_same(answer, kept(*fixed(made)(weights, ids, real, logits), DROPPED))
                assert_same(answer, kept_by_hand(weights, ids, made, real, logits=logits))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_one_graph_follows_a_refill(rule: str, padded: bool) -> None:
    """Compiled once, without a break; other numbers take effect without compiling again."""
    from allocmoe.engines.vllm.install import everything

    torch._dynamo.reset()
    made, graphs = plan(rule), []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    layer = on(CPU, made)
    compiled = torch.compile(lambda w, i, v, x: layer(w, i, v, x), fullgraph=True, backend=backend, dynamic=False)
    logits, weights, ids = some(12)
    real = torch.arange(12) < 9 if padded else None
    base_alone = replace(made, parameters={**made.parameters, "refill_tokens": 8})
    found = []
    for following in (made, other(made), base_alone, everything(made), made):
        layer.follow(fixed(following))
        answer = compiled(weights, ids, real, logits)
        assert_same(kept(*answer, DROPPED), kept_by_hand(weights, ids, following, real, logits=logits))
        found.append(int((answer[1] >= 0).sum()))
    assert len(graphs) == 1
    assert found[0] == found[4]
    assert len({found[0], found[2], found[3]}) == 3


@pytest.mark.parametrize("reference", ["original", "survivors"])
@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_nothing_waits_for_the_device(rule: str, reference: str) -> None:
    """Meta tensors have no values to look at."""
    from vllm.forward_context import ForwardContext, override_forward_context

    padding = torch.empty(6, dtype=torch.bool, device=META)
    for layer in (on(META, plan(rule, reference=reference)), fixed(plan(rule, reference=reference))):
        router = budgeted(layer)
        with override_forward_context(ForwardContext({}, {}, {}, is_padding=padding)):
            answer = router.select_experts(
                torch.empty(6, 8, device=META), torch.empty(6, EXPERTS, device=META), torch.int32
            )  # fmt: skip
        assert [(t.device.type, t.shape) for t in answer] == [("meta", (6, TOP))] * 2
        assert answer[1].dtype == torch.int32


@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_everything_keeps_everything(rule: str) -> None:
    from allocmoe.engines.vllm.install import everything

    whole = everything(plan(rule))
    for tokens in (1, 9):
        logits, weights, ids = some(tokens)
        expected = [dict(zip(i, w, strict=True)) for i, w in zip(ids.tolist(), weights.double().tolist(), strict=True)]
        for layer in (fixed(whole), on(CPU, whole)):
            assert_same(kept(*layer(weights, ids, None, logits), DROPPED), expected)


ROUTERS: dict[str, dict[str, Any]] = {
    "softmax": {"renormalize": False},
    "renormalised": {"renormalize": True},
    "groups": {"renormalize": False, "use_grouped_topk": True, "num_expert_group": 3, "topk_group": 2,
               "routed_scaling_factor": 16.0},
    "sigmoid": {"renormalize": True, "use_grouped_topk": True, "num_expert_group": 4, "topk_group": 2,
                "scoring_func": "sigmoid", "routed_scaling_factor": 2.5,
                "e_score_correction_bias": torch.arange(EXPERTS) % 5 / 10},
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROUTERS)
def test_the_top_k_is_the_routers_own(name: str, dtype: torch.dtype) -> None:
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    from allocmoe.engines.vllm.router import scoring_of

    router = CPURouter(TOP, EXPERTS, **ROUTERS[name])
    logits = some(200)[0].to(dtype)
    weights, ids = router.select_experts(torch.zeros(200, 8), logits, torch.int64)
    order, mass = scoring_of(router)(logits, ids)
    best = order.topk(TOP, dim=-1)
    edge = order.topk(TOP + 1, dim=-1).values
    clear = edge[:, TOP - 1] > edge[:, TOP] + 1e-6  # bf16 logits tie, and then the order is the router's
    assert clear.sum() > 100
    assert torch.equal(best.indices.sort(-1).values[clear], ids.sort(-1).values[clear])
    torch.testing.assert_close(mass.gather(-1, ids), weights, rtol=0.05 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_the_grouped_router_of_cuda() -> None:
    """Its own torch code, which its kernels stand for."""
    from vllm.model_executor.layers.fused_moe.router.grouped_topk_router import GroupedTopKRouter

    from allocmoe.engines.vllm.router import scoring_of

    options = {n: v for n, v in ROUTERS["sigmoid"].items() if n != "use_grouped_topk"}
    router = GroupedTopKRouter(TOP, EXPERTS, **options)
    scoring = scoring_of(router)
    assert (scoring.function, scoring.renormalise, scoring.scale) == ("sigmoid", True, 2.5)
    assert (scoring.groups, scoring.open_groups) == (4, 2)
    assert scoring.bias is router.e_score_correction_bias


def test_routers_that_are_not_known_are_refused() -> None:
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    from allocmoe.engines.vllm.router import scoring_of

    class NewRouter:
        pass

    custom = CPURouter(TOP, EXPERTS, custom_routing_function=lambda **_: None)
    for router, says in (
        (NewRouter(), "NewRouter"),
        (custom, "function of the model"),
        (CPURouter(TOP, EXPERTS, scoring_func="sqrtsoftplus"), "sqrtsoftplus"),
    ):
        with pytest.raises(AllocMoEError, match=says) as caught:
            scoring_of(router)
        assert "\n" not in str(caught.value)
        for rule in LOGIT_RULES:
            with pytest.raises(AllocMoEError):
                PlannedLayer.of(plan(rule), 0, DROPPED, lambda router=router: scoring_of(router))
        PlannedLayer.of(plan("top_k"), 0, DROPPED, lambda router=router: scoring_of(router))  # it needs no scores


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("prefix", [True, False])
def test_the_kernel_is_given_the_kept_pairs(tokens: int, prefix: bool) -> None:
    """Also where they are not the first of their row, and a full batch goes to the kernel as it is."""
    from allocmoe.engines.vllm.kernels import one_pair_a_row

    made = fixed(plan("refill", parameters={"pairs": 3}))
    made = replace(made, rule=replace(made.rule, prefix=prefix))
    experts = torch.randn(EXPERTS, 8, generator=torch.Generator().manual_seed(1))
    seen: list[int] = []

    def stock(output: Tensor, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
        assert (topk_ids >= 0).all()
        seen.append(topk_ids.numel())
        output.copy_((topk_weights[..., None] * experts[topk_ids.long()]).sum(1) * hidden_states)

    apply = one_pair_a_row(stock, SimpleNamespace(rule=made))
    logits, weights, ids = some(tokens)
    weights, ids = made(weights, ids, None, logits)
    if not prefix:
        weights, ids = weights.flip(1).contiguous(), ids.flip(1).contiguous()
    for w, i in ((weights, ids), some(tokens)[1:]):
        output, hidden = torch.full((tokens, 8), math.nan), torch.ones(tokens, 8)
        apply(output=output, hidden_states=hidden, topk_weights=w, topk_ids=i)
        expected = (w[..., None] * experts[i.long().clamp(min=0)] * (i >= 0)[..., None]).sum(1)
        torch.testing.assert_close(output, expected)
    assert seen == [int((ids >= 0).sum()), tokens * TOP]
    assert seen[0] < seen[1]


@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_a_captured_worker_follows_plans_of_one_number_of_pairs_and_of_one_a_layer(rule: str) -> None:
    from allocmoe.engines.vllm.install import everything

    worker = worker_of(2, live=True, captured=True)
    own = {"experts": (5, 7)} if rule == "cap" else {}
    first = plan(rule, layers=(1.0, 2.0), parameters=own)
    second = replace(first, parameters={**first.parameters, "pairs": (4, 2)})
    assert everything(first).parameters == everything(second).parameters, "all K, however it is written"
    for following, pairs in ((first, [3, 3]), (second, [4, 2]), (None, [TOP] * 2), (second, [4, 2]), (first, [3, 3])):
        worker.apply(following)
        assert [int(router.rule.numbers["pairs"]) for router in worker.routers.values()] == pairs
        logits, weights, ids = some(6)
        for layer, router in worker.routers.items():
            answer = kept(*router.rule(weights, ids, None, logits), DROPPED)
            made = following or plan("top_k", layers=(float(TOP),) * 2, budget=2 * TOP)
            assert_same(answer, kept_by_hand(weights, ids, made, layer=layer, logits=logits))
