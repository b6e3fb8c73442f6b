"""Small kernels with the interface of vLLM's modular experts, right and wrong, and a layer to call them through."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EXPERTS, HIDDEN, WIDTH, TOP = 12, 16, 8, 4
CPU = torch.device("cpu")


class Right:
    """Computes kept pairs alone and sums them alone.

    Attributes:
        w13, w2: [E, 2 WIDTH, HIDDEN] and [E, HIDDEN, WIDTH].
        quant_config: as vLLM's; None where nothing is quantised.
    """

    quant_config: Any = None

    def __init__(self, scale: float = 0.3, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(3)
        self.w13 = (torch.randn(EXPERTS, 2 * WIDTH, HIDDEN, generator=generator) * scale).to(dtype)
        self.w2 = (torch.randn(EXPERTS, HIDDEN, WIDTH, generator=generator) * scale).to(dtype)
        self.seen: list[Tensor] = []

    def apply(
        self, output: Tensor, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor, workspace13: Tensor,
        workspace2: Tensor, expert_map: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.seen.append(topk_ids.clone())
        tokens, top = topk_ids.shape
        inner = workspace2[: tokens * top * WIDTH].view(tokens, top, WIDTH)
        parts = workspace13[: tokens * top * HIDDEN].view(tokens, top, HIDDEN)
        local = self.local(topk_ids, expert_map)
        for t, k in (local >= 0).nonzero().tolist():
            gate, up = (self.w13[local[t, k]] @ hidden_states[t]).chunk(2)
            inner[t, k] = F.silu(gate) * up
        inner = self.rounded(inner)
        for t, k in (local >= 0).nonzero().tolist():
            parts[t, k] = (self.w2[local[t, k]] @ inner[t, k]) * topk_weights[t, k].to(parts.dtype)
        self.finish(output, parts, local)

    def local(self, ids: Tensor, expert_map: Tensor | None) -> Tensor:
        return ids if expert_map is None else torch.where(ids >= 0, expert_map[ids.clamp(min=0).long()], -1)

    def rounded(self, inner: Tensor) -> Tensor:
        return inner

    def finish(self, output: Tensor, parts: Tensor, ids: Tensor) -> None:
        output.copy_(torch.where((ids >= 0)[..., None], parts, 0).sum(1))


class AddsUnwritten(Right):
    """Its sum over K does not look at ids."""

    def finish(self, output: Tensor, parts: Tensor, ids: Tensor) -> None:
        output.copy_(parts.sum(1))


class WeighsUnwritten(Right):
    """Its sum multiplies with 0 what was dropped."""

    def finish(self, output: Tensor, parts: Tensor, ids: Tensor) -> None:
        output.copy_((parts * (ids >= 0)[..., None]).sum(1))


class Wraps(Right):
    """Takes -1 for an index from the end."""

    def local(self, ids: Tensor, expert_map: Tensor | None) -> Tensor:
        return ids % EXPERTS


class LeavesStale(Right):
    """Writes nothing for a token that keeps nothing."""

    def finish(self, output: Tensor, parts: Tensor, ids: Tensor) -> None:
        some = (ids >= 0).any(1)
        output[some] = torch.where((ids >= 0)[..., None], parts, 0).sum(1)[some]


class SharesScale(Right):
    """Rounds activations to 8 bits by their maximum over all rows, also those that nobody wrote."""

    def rounded(self, inner: Tensor) -> Tensor:
        scale = inner.abs().amax() / 127
        return (inner / scale).round() * scale


class ScalesRows(Right):
    """The same with a scale for each row, which is right."""

    quant_config = SimpleNamespace(
        quant_dtype=torch.int8, a2_scale=None, block_shape=None, per_act_token_quant=True, weight_quant_dtype=torch.int8
    )

    def rounded(self, inner: Tensor) -> Tensor:
        scale = inner.float().abs().amax(-1, keepdim=True).clamp(min=1e-20) / 127
        return ((inner / scale).round() * scale).to(inner.dtype)


class Fails(Right):
    def finish(self, output: Tensor, parts: Tensor, ids: Tensor) -> None:
        if bool((ids < 0).any()):
            raise IndexError("expert -1 is out of range\nand more lines")
        super().finish(output, parts, ids)


class Layer:
    """As much of vLLM's MoE layer as the probe goes through, with workspaces that outlive calls."""

    def __init__(self, experts: Any, expert_map: Tensor | None = None) -> None:
        self.experts, self.expert_map = experts, expert_map
        self.spaces = [torch.zeros(300 * TOP * HIDDEN, dtype=experts.w13.dtype) for _ in range(3)]
        self.quant_method = SimpleNamespace(
            is_monolithic=False, moe_kernel=SimpleNamespace(fused_experts=experts), topk_indices_dtype=None,
            process_weights_after_loading=lambda layer: None,
        )  # fmt: skip

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return [("w13_weight", self.experts.w13), ("w2_weight", self.experts.w2)]

    def forward_modular(self, x: Tensor, weights: Tensor, ids: Tensor, shared: None, shared_input: None) -> Tensor:
        output = self.spaces[0][: x.numel()].view_as(x)
        given = {} if self.expert_map is None else {"expert_map": self.expert_map}
        self.quant_method.moe_kernel.fused_experts.apply(
            output=output, hidden_states=x, topk_weights=weights, topk_ids=ids, workspace13=self.spaces[1],
            workspace2=self.spaces[2], **given,
        )  # fmt: skip
        return output


def runner(experts: Any, expert_map: Tensor | None = None, **moe: Any) -> Any:
    """As much of vLLM's MoERunner."""
    known = {
        "hidden_dim": HIDDEN, "num_experts": EXPERTS, "experts_per_token": TOP, "in_dtype": experts.w13.dtype,
        "max_num_tokens": 64,
    }  # fmt: skip
    return SimpleNamespace(
        layer_name="model.layers.3.mlp.experts", router=SimpleNamespace(rule=None),
        routed_experts=Layer(experts, expert_map), moe_config=SimpleNamespace(**known | moe),
    )  # fmt: skip


def by_hand(experts: Any, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
    """Every token, every kept expert, in float64."""
    total = torch.zeros(x.shape, dtype=torch.float64)
    for t, k in (ids >= 0).nonzero().tolist():
        gate, up = (experts.w13[ids[t, k]].double() @ x[t].double()).chunk(2)
        total[t] += float(scores[t, k]) * (experts.w2[ids[t, k]].double() @ (gate / (1 + (-gate).exp()) * up))
    assert math.isfinite(float(total.sum()))
    return total
