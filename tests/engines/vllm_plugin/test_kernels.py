"""Dropped pairs cost nothing and change nothing: around vLLM's own CPU kernel, against a float64 loop."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from tests.engines.loops import plan

pytestmark = pytest.mark.vllm
EXPERTS, HIDDEN, WIDTH, TOP = 6, 32, 32, 4
FLOAT, BFLOAT = ("vec", torch.float32), ("amx", torch.bfloat16)
TILES = torch.cpu._is_amx_tile_supported()
KERNELS = [pytest.param(*FLOAT, id="vec"),
           pytest.param(*BFLOAT, id="amx", marks=pytest.mark.skipif(not TILES, reason="no AMX here"))]  # fmt: skip


@cache
def weights(isa: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w13 and w2 as a checkpoint has them, and as the kernel wants them."""
    from vllm._custom_ops import cpu_prepack_moe_weight

    if isa == "amx":
        torch.cpu._init_amx()  # the process dies of the first tile instruction otherwise
    generator = torch.Generator().manual_seed(0)
    w13 = (torch.randn(EXPERTS, 2 * WIDTH, HIDDEN, generator=generator) * 0.2).to(dtype)
    w2 = (torch.randn(EXPERTS, HIDDEN, WIDTH, generator=generator) * 0.2).to(dtype)
    return w13, w2, cpu_prepack_moe_weight(w13, isa), cpu_prepack_moe_weight(w2, isa)


class Stock:
    """vLLM's kernel as `experts.apply` calls it, and how many rows it was given."""

    def __init__(self, isa: str, dtype: torch.dtype) -> None:
        self.isa, self.dtype = isa, dtype
        self.w13, self.w2, *self.packed = weights(isa, dtype)
        self.pairs: list[int] = []

    def apply(self, output: Tensor, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
        from vllm._custom_ops import cpu_fused_moe

        assert all(t.is_contiguous() for t in (output, hidden_states, topk_weights, topk_ids))
        assert 0 <= int(topk_ids.min()) <= int(topk_ids.max()) < EXPERTS, "the kernel reads outside of the weights"
        assert (topk_weights.dtype, topk_ids.dtype) == (torch.float32, torch.int32)
        self.pairs.append(topk_ids.numel())
        cpu_fused_moe(
            output, hidden_states, *self.packed, None, None, topk_weights, topk_ids, "silu", self.isa, False
        )  # fmt: skip

    def by_hand(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        """Every token, every kept expert, in float64."""
        total = torch.zeros(x.shape, dtype=torch.float64)
        for t in range(len(ids)):
            for score, e in zip(scores[t].double().tolist(), ids[t].tolist(), strict=True):
                if e >= 0:
                    gate, up = (self.w13[e].double() @ x[t].double()).chunk(2)
                    total[t] += score * (self.w2[e].double() @ (F.silu(gate) * up))
        return total

    @property
    def tolerance(self) -> dict[str, float]:
        return {"rtol": 1e-4, "atol": 1e-5} if self.dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}


def routing(mask: Tensor, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """A call over as many tokens as the mask has, with what it leaves out marked."""
    generator = torch.Generator().manual_seed(seed)
    tokens, top = mask.shape
    ids = torch.stack([torch.randperm(EXPERTS, generator=generator)[:top] for _ in range(tokens)]).int()
    scores = torch.rand(tokens, top, generator=generator) + 0.1
    x = torch.randn(tokens, HIDDEN, generator=generator).to(dtype)
    return {
        "output": torch.full((tokens, HIDDEN), torch.nan, dtype=dtype),
        "hidden_states": x,
        "topk_weights": scores * mask,
        "topk_ids": ids.masked_fill(~mask, -1),
    }


def ragged(stock: Any, token_rule: str = "alloc_t") -> Any:
    from allocmoe.engines.vllm.kernels import one_pair_a_row

    return one_pair_a_row(stock, SimpleNamespace(rule=PlannedLayer.of(plan(token_rule), 0, -1)))


def check(stock: Stock, call: dict[str, Tensor]) -> None:
    before = {name: t.clone() for name, t in call.items() if name != "output"}
    assert ragged(stock.apply)(**call) is None
    expected = stock.by_hand(call["hidden_states"], call["topk_weights"], call["topk_ids"])
    torch.testing.assert_close(call["output"].double(), expected, **stock.tolerance)
    nothing = (call["topk_ids"] < 0).all(1)
    assert (call["output"][nothing] == 0).all()
    assert all(torch.equal(call[name], t) for name, t in before.items())


@pytest.mark.parametrize(("isa", "dtype"), KERNELS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_ragged_routing_is_the_sum_over_kept_experts(isa: str, dtype: torch.dtype, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, TOP))
    kept = torch.tensor(data.draw(st.lists(st.integers(0, width), min_size=1, max_size=9)))
    mask = torch.arange(width) < kept[:, None]  # as rules mark it: what a token keeps comes first in its row
    stock = Stock(isa, dtype)
    check(stock, routing(mask, dtype, data.draw(st.integers(0, 9))))
    assert sum(stock.pairs) == int(mask.sum())


MASKS = {
    "all kept": torch.ones(5, TOP).bool(),
    "none kept": torch.zeros(5, TOP).bool(),
    "one token keeps none": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool(),
    "a single token": torch.tensor([[1, 1, 0, 0]]).bool(),
    "a single token keeps none": torch.zeros(1, TOP).bool(),
    "one pair": torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0]]).bool(),
    "many": torch.rand(300, TOP, generator=torch.Generator().manual_seed(2)) < 0.4,
}


@pytest.mark.parametrize(("isa", "dtype"), KERNELS)
@pytest.mark.parametrize("name", MASKS)
def test_the_kernel_is_given_the_kept_pairs_alone(name: str, isa: str, dtype: torch.dtype) -> None:
    stock = Stock(isa, dtype)
    check(stock, routing(MASKS[name], dtype))
    assert sum(stock.pairs) == int(MASKS[name].sum())
    assert len(stock.pairs) == bool(MASKS[name].any())


@pytest.mark.parametrize("rule", [None, "narrow", "whole"])
def test_what_is_not_ragged_goes_to_the_kernel_as_it_is(rule: str | None) -> None:
    """No plan, or plain top-k: its answer is narrow, so there is nothing to leave out."""
    from allocmoe.engines.vllm.kernels import one_pair_a_row

    seen: list[dict[str, Tensor]] = []
    width = 2 if rule == "narrow" else TOP
    router = SimpleNamespace(rule=PlannedLayer.of(plan("top_k"), 0, -1) if rule else None)
    call = routing(torch.ones(3, width).bool(), torch.float32)
    assert one_pair_a_row(lambda **given: seen.append(given) or "stock's answer", router)(**call) == "stock's answer"
    assert len(seen) == 1
    assert all(seen[0][name] is t for name, t in call.items())


def test_top_k_over_padding_is_ragged() -> None:
    """Rows of padding are marked, and the rest is as wide as before."""
    from vllm.forward_context import ForwardContext, override_forward_context

    from allocmoe.engines.vllm.kernels import one_pair_a_row

    stock, made = Stock(*FLOAT), PlannedLayer.of(plan("top_k"), 0, -1)
    mask = torch.ones(4, TOP).bool()
    real = torch.tensor([True, False, True, True])
    call = routing(mask, torch.float32)
    kept = made(call["topk_weights"], call["topk_ids"], real)
    call |= {"topk_weights": kept[0], "topk_ids": kept[1]}
    with override_forward_context(ForwardContext({}, {}, {}, is_padding=~real)):
        one_pair_a_row(stock.apply, SimpleNamespace(rule=made))(**call)
    torch.testing.assert_close(call["output"].double(), stock.by_hand(call["hidden_states"], *kept), **stock.tolerance)
    assert stock.pairs == [3 * 2]


def test_other_arguments_reach_the_kernel() -> None:
    seen: list[dict[str, Any]] = []
    call = routing(MASKS["one pair"], torch.float32)
    ragged(lambda **given: seen.append(given))(**call, w1="w1", activation="silu", expert_map=None)
    assert {name: seen[0][name] for name in ("w1", "activation", "expert_map")} == {
        "w1": "w1", "activation": "silu", "expert_map": None,
    }  # fmt: skip
