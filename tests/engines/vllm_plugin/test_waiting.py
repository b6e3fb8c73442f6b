"""Rules, counters and routers never wait for the device: nothing of theirs reaches the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from captured import budgeted, fixed, on
from torch import Tensor

from allocmoe.engines.spent import Spent
from allocmoe.errors import AllocMoEError
from tests.engines.loops import (
    EXPERTS,
    TOKEN_RULES,
    TOP,
    plan,
)

pytestmark = pytest.mark.vllm
# Meta tensors have a shape and no values: whatever needs a value on the host, or to know a shape, fails.
# They stand for a GPU's, which a CPU build of torch cannot even pretend to have.
META = torch.device("meta")


def inputs(padded: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    weights, ids = torch.empty(6, TOP, device=META), torch.empty(6, TOP, dtype=torch.int32, device=META)
    return weights, ids, torch.empty(6, dtype=torch.bool, device=META) if padded else None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("reference", ["original", "survivors"])
@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_no_rule_waits_for_the_device(token_rule: str, reference: str, padded: bool) -> None:
    made = plan(token_rule, reference=reference)
    for rule in (on(META, made), fixed(made)):
        weights, ids = rule(*inputs(padded))
        assert weights.device.type == ids.device.type == "meta"
        assert weights.shape == ids.shape == (6, TOP if rule.ragged else 2)


@pytest.mark.parametrize("padded", [False, True])
def test_counting_does_not_wait_for_the_device(padded: bool) -> None:
    _, ids, real = inputs(padded)
    spent = Spent(2, EXPERTS, META)
    spent.add(1, ids, real)
    spent.reset()
    assert spent.load.device.type == spent.tokens.device.type == "meta"


@pytest.mark.parametrize("token_rule", [None, *TOKEN_RULES])
def test_the_router_does_not_wait_for_the_device(token_rule: str | None) -> None:
    from vllm.forward_context import ForwardContext, override_forward_context

    router, spent = budgeted(on(META, plan(token_rule)) if token_rule else None), Spent(1, EXPERTS, META)
    router.counter = lambda ids, valid: spent.add(0, ids, valid)
    _, _, padding = inputs(padded=True)
    with override_forward_context(ForwardContext({}, {}, {}, is_padding=padding)):
        answer = router.select_experts(
            torch.empty(6, 8, device=META), torch.empty(6, EXPERTS, device=META), torch.int32
        )  # fmt: skip
    assert [t.device.type for t in answer] == ["meta", "meta"]
    assert [t.shape for t in answer] == [(6, TOP), (6, TOP)]


def test_a_device_that_does_not_tell_of_padding_is_refused() -> None:
    """Rows that fill up a captured graph would take budget."""
    from vllm.forward_context import ForwardContext, override_forward_context

    router = budgeted(on(META, plan("alloc_t")))
    hidden, logits = torch.empty(6, 8, device=META), torch.empty(6, EXPERTS, device=META)
    silent = override_forward_context(ForwardContext({}, {}, {}, is_padding=None))
    with silent, pytest.raises(AllocMoEError, match="which rows of a pass are padding"):
        router.select_experts(hidden, logits, torch.int32)


@pytest.mark.parametrize(
    "peek",
    [
        lambda rule, weights, real: replace(rule, numbers={"k": rule.numbers["k"].item()}),
        lambda rule, weights, real: rule if real.any() else None,
        lambda rule, weights, real: weights[real],
        lambda rule, weights, real: weights.nonzero(),
        lambda rule, weights, real: weights[: int(real.sum())],
        lambda rule, weights, real: weights.cpu(),
    ],
    ids=["item", "bool", "index", "nonzero", "slice", "copy"],
)
def test_what_waits_for_the_device_fails_there(peek: Any) -> None:
    """Else the tests above could not fail."""
    weights, _, real = inputs(padded=True)
    with pytest.raises((RuntimeError, NotImplementedError)):
        peek(on(META, plan("alloc_t")), weights, real)
