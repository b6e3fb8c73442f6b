"""Rules under captured graphs: numbers in tensors, which change without the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from captured import CPU, DROPPED, budgeted, fixed, on, other, routed, two_layers
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


@settings(deadline=None, max_examples=150)
@given(candidates(), plans(), st.data())
def test_numbers_in_tensors_change_nothing(given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    weights, ids = given
    real = data.draw(masks(len(ids)))
    ours = kept(*on(CPU, plan)(weights, ids, real), DROPPED)
    assert_same(ours, kept(*fixed(plan)(weights, ids, real), DROPPED))
    assert_same(ours, kept_by_hand(weights, ids, plan, real))


@settings(deadline=None, max_examples=100)
@given(candidates(), st.sampled_from(TOKEN_RULES), st.sampled_from(["original", "survivors"]), st.booleans(), st.data())
def test_refilled_it_is_the_other_plans_rule(
    given: tuple[Tensor, Tensor], token_rule: str, reference: str, weighed: bool, data: st.DataObject
) -> None:
    weights, ids = given
    real = data.draw(masks(len(ids)))
    rule = on(CPU, data.draw(plans(token_rule, reference, weighed)))
    tensors = dict(rule.numbers)
    for _ in range(2):
        plan = data.draw(plans(token_rule, reference, weighed))
        rule.follow(fixed(plan))
        assert_same(kept(*rule(weights, ids, real), DROPPED), kept_by_hand(weights, ids, plan, real))
    assert all(rule.numbers[name] is tensor for name, tensor in tensors.items())


def test_budgets_in_tensors_neither_lose_nor_gain_an_expert() -> None:
    """B / L times T may land just below a whole number: a float32 budget would round it."""
    for budget, layers, tokens in ((26, 24, 108), (30, 26, 13), (54, 49, 49), (55, 49, 98), (119, 40, 2001)):
        weights, ids = routed(tokens)
        made = plan("alloc_t", layers=(budget / layers,))
        for real in (None, torch.ones(tokens, dtype=torch.bool)):
            assert int((on(CPU, made)(weights, ids, real)[1] >= 0).sum()) == budget * tokens // layers


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_another_kind_of_plan_is_refused_and_nothing_changes(token_rule: str) -> None:
    made = plan(token_rule)
    rule = on(CPU, made)
    numbers = {name: t.clone() for name, t in rule.numbers.items()}
    another = TOKEN_RULES[(TOKEN_RULES.index(token_rule) + 1) % len(TOKEN_RULES)]
    for wrong, what in ((plan(another), "token_rule"), (replace(other(made), reference="survivors"), "reference")):
        with pytest.raises(AllocMoEError, match=f"captured with {what}.*enforce_eager") as caught:
            rule.follow(fixed(wrong))
        assert "\n" not in str(caught.value)
    assert all(torch.equal(rule.numbers[name], t) for name, t in numbers.items())


@settings(deadline=None, max_examples=100)
@given(candidates(), plans(), st.data())
def test_everything_keeps_everything(given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    from allocmoe.engines.vllm.install import everything

    weights, ids = given
    real = data.draw(masks(len(ids)))
    whole = everything(plan)
    assert (whole.token_rule, whole.reference) == (plan.token_rule, plan.reference)
    expected = [
        dict(zip(names, row, strict=True)) if real is None or bool(real[t]) else {}
        for t, (names, row) in enumerate(zip(ids.tolist(), weights.double().tolist(), strict=True))
    ]
    rule = on(CPU, plan)
    rule.follow(fixed(whole))
    assert_same(kept(*rule(weights, ids, real), DROPPED), expected)
    answer = fixed(whole)(weights, ids, real)
    if plan.rule.untouched:  # the router's own answer, padding too
        assert all(a is b for a, b in zip(answer, given, strict=True))
    else:
        assert_same(kept(*answer, DROPPED), expected)


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
@pytest.mark.parametrize("scale", [2.5, 16.0])
def test_everything_keeps_everything_where_weights_sum_to_more_than_one(token_rule: str, scale: float) -> None:
    """DeepSeek-V3's router multiplies its weights by 2.5, DeepSeek-V2's large model by 16."""
    from allocmoe.engines.vllm.install import everything

    weights, ids = routed(20)
    weights = weights / weights.sum(-1, keepdim=True) * scale
    whole = fixed(everything(plan(token_rule)))
    assert int((whole(weights, ids, None)[1] >= 0).sum()) == ids.numel()


def test_everything_is_of_every_layer() -> None:
    from allocmoe.engines.vllm.install import everything

    made = plan("naee", budget=9, layers=(1.0, 4.0, 2.0), parameters={"threshold": (0.9, 0.1, 0.5)})
    assert everything(made).exact_budget == 3 * TOP
    weights, ids = routed(9)
    for layer in range(3):
        rule = PlannedLayer.of(everything(made), layer, DROPPED)
        assert (rule(weights, ids, None)[1] >= 0).all()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_one_graph_follows_a_refill(token_rule: str, padded: bool) -> None:
    """Compiled once, without a break; other numbers take effect without compiling again."""
    from allocmoe.engines.vllm.install import everything

    torch._dynamo.reset()
    made, graphs = plan(token_rule), []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    rule = on(CPU, made)
    compiled = torch.compile(lambda w, i, v: rule(w, i, v), fullgraph=True, backend=backend, dynamic=False)
    weights, ids = routed(12)
    real = torch.arange(12) < 9 if padded else None
    found = []
    for following in (made, other(made), everything(made), made):
        rule.follow(fixed(following))
        answer = compiled(weights, ids, real)
        assert_same(kept(*answer, DROPPED), kept_by_hand(weights, ids, following, real))
        found.append(int((answer[1] >= 0).sum()))
    assert len(graphs) == 1
    assert found[0] == found[3] != found[1] != found[2]


def worker_of(layers: int, live: bool, captured: bool) -> Any:
    """The MoE layers of a worker whose graphs are captured, as on a GPU, but for the model around them."""
    from allocmoe.engines.vllm.install import Budgeted
    from allocmoe.engines.vllm.settings import Settings
    from allocmoe.spec import MoESpec

    found = object.__new__(Budgeted)
    found.__dict__ |= {
        "settings": Settings(live=live), "plan": None, "captured": captured, "device": CPU, "mark": None,
        "scaled": False, "fused": None,
        "spec": MoESpec("olmoe", layers, EXPERTS, TOP, "softmax", False, 0, 0),
        "routers": {layer: budgeted(None) for layer in range(layers)}, "spent": Spent(layers, EXPERTS), "path": "",
    }  # fmt: skip
    return found


def numbers(worker: Any) -> list[dict[str, float]]:
    return [{name: float(v) for name, v in r.rule.numbers.items()} for r in worker.routers.values()]


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_a_captured_worker_keeps_its_rules_and_changes_their_numbers(token_rule: str) -> None:
    from allocmoe.engines.vllm.install import everything

    worker = worker_of(2, live=True, captured=True)
    first = plan(token_rule, layers=(1.0, 2.0), parameters=two_layers(token_rule))
    second = replace(first, layers=(2.0, 1.0), parameters=two_layers(token_rule, 0.4))
    worker.apply(first)
    rules = [router.rule for router in worker.routers.values()]
    assert all(isinstance(v, Tensor) for rule in rules for v in rule.numbers.values())
    for following in (first, second, None, first):
        worker.apply(following)
        assert all(router.rule is rule for router, rule in zip(worker.routers.values(), rules, strict=True))
        whole = following or everything(first)
        assert numbers(worker) == [pytest.approx(whole.numbers(layer)) for layer in (0, 1)]
    other_rule = plan("top_k", layers=(1.0, 1.0)) if token_rule != "top_k" else plan(
        "naee", layers=(1.0, 1.0), parameters={"threshold": (0.5, 0.5)}
    )  # fmt: skip
    for refused in (other_rule,
                    replace(second, reference="survivors"), replace(second, experts=EXPERTS + 1)):  # fmt: skip
        before = numbers(worker)
        with pytest.raises(AllocMoEError):
            worker.apply(refused)
        assert worker.plan == first
        assert numbers(worker) == before


@pytest.mark.parametrize(("live", "captured"), [(True, False), (False, True), (False, False)])
def test_any_other_worker_has_plain_rules(live: bool, captured: bool) -> None:
    worker = worker_of(2, live, captured)
    for made in (plan("alloc_t", layers=(1.5, 2.5)), plan("top_k", layers=(1.0, 3.0))):
        worker.apply(made)
        assert [r.rule for r in worker.routers.values()] == [PlannedLayer.of(made, layer, DROPPED) for layer in (0, 1)]
    worker.apply(made := plan("top_k", budget=TOP + 1, layers=(float(TOP), 1.0)))
    assert [r.rule for r in worker.routers.values()] == [None, PlannedLayer.of(made, 1, DROPPED)], "nothing to do"
    if not captured:
        worker.apply(None)
        assert [r.rule for r in worker.routers.values()] == [None, None]
        assert worker.plan is None


def test_a_worker_counts_each_layer_as_its_own() -> None:
    """And only from when it is told to, from zero."""
    worker = worker_of(3, live=True, captured=False)
    worker.apply(plan("top_k", budget=6, layers=(1.0, 2.0, 3.0)))

    def run() -> None:
        for router in worker.routers.values():
            router.select_experts(torch.zeros(5, 8), torch.rand(5, EXPERTS), torch.int32)

    run()
    assert worker.spent.passes.tolist() == [0, 0, 0]
    for _ in range(2):
        worker.count(True)
        run()
        assert worker.spent.activations.tolist() == [5, 10, 15]
        assert worker.spent.tokens.tolist() == [5, 5, 5]
    worker.count(False)
    run()
    assert worker.spent.passes.tolist() == [0, 0, 0]


def test_a_kernel_follows_the_routers_rule() -> None:
    """It asks the router at every call, so a change reaches it too."""
    from allocmoe.engines.vllm.kernels import one_pair_a_row

    worker, seen = worker_of(1, live=True, captured=False), []

    def stock(output: Tensor, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
        output.zero_()
        seen.append(tuple(topk_ids.shape))

    apply = one_pair_a_row(stock, worker.routers[0])
    for made in (None, plan("alloc_t"), plan("top_k", layers=(4.0,)), None):
        worker.apply(made)
        ids = torch.tensor([[0, 1, 2, 3], [0, 1, *([-1, -1] if made and made.token_rule == "alloc_t" else [2, 3])]])
        apply(output=torch.empty(2, 8), hidden_states=torch.ones(2, 8), topk_weights=torch.ones(2, TOP), topk_ids=ids)
    assert seen == [(2, TOP), (6, 1), (2, TOP), (2, TOP)]
