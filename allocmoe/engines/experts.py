"""An experts implementation for transformers that computes kept (token, expert) pairs and no other.

A dropped pair carries the sentinel id N. Pairs are sorted by expert, the sentinels fall off the
end, and what is left goes through two grouped matrix products: the cost follows the number of
kept pairs, ragged or not.

Where a family's experts are not plain gated MLPs with one concatenated weight (gpt-oss), its own
"eager" loop is used, which skips sentinels too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "allocmoe_skipping"


def skipping_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Weighted sum of the kept experts' outputs.

    Args:
        hidden_states: [T, H].
        top_k_index: [T, k] expert ids, N where dropped.
        top_k_weights: [T, k] combine weights, ignored where dropped.

    Returns:
        [T, H], summed in float32 (float64 for a float64 model).
    """
    ids = top_k_index.reshape(-1)
    order = ids.argsort(stable=True)
    ends = torch.bincount(ids, minlength=self.num_experts + 1)[: self.num_experts].cumsum(0)
    order = order[: int(ends[-1])]
    if not len(order):
        return torch.zeros_like(hidden_states)
    token = order // top_k_index.shape[-1]
    ends = ends.to(torch.int32)
    inner = _grouped(hidden_states[token], self.gate_up_proj, ends)
    output = _grouped(self._apply_gate(inner), self.down_proj, ends)
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    output = output.to(wide) * top_k_weights.reshape(-1)[order, None].to(wide)
    total = torch.zeros(hidden_states.shape, dtype=wide, device=hidden_states.device)
    return total.index_add_(0, token, output).to(hidden_states.dtype)


def _grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows up to `ends[e]` through expert e's [out, in] matrix."""
    if rows.dtype != torch.float64:
        return F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    counts = ends.diff(prepend=ends.new_zeros(1)).tolist()  # no grouped product in float64
    return torch.cat([F.linear(part, w) for part, w in zip(rows.split(counts), weights, strict=True)])


ALL_EXPERTS_FUNCTIONS.register(NAME, skipping_experts)


def use_skipping(model: nn.Module) -> bool:
    """Make a model skip dropped experts; False if its implementation can only weigh them with 0.

    On a GPU transformers' own "grouped_mm" skips sentinels without a synchronisation; it accepts
    them when the experts believe that they are one shard of many.
    """
    experts: list[Any] = [m for m in model.modules() if hasattr(m, "_is_expert_parallel")]
    plain = all(m.is_concatenated and m.has_gate and not m.has_bias and not m.is_transposed for m in experts)
    if not experts or not hasattr(F, "grouped_mm"):
        return False
    cuda = next(model.parameters()).device.type == "cuda"
    name = "grouped_mm" if cuda else NAME if plain else "eager"
    for module in experts:
        module.config._experts_implementation = name
        module._is_expert_parallel = name == "grouped_mm"
    return True
