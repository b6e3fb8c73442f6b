"""The experts of a model in training: fast for many narrow experts, and counting what they are asked for.

Every expert's tokens are cut into blocks of BLOCK rows and each block is multiplied with its own copy
of the expert's (small) weights, so a layer is two batched matrix products whose shapes do not depend
on the load. Same result as transformers' "eager"; on one core several times as fast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "allocmoe_blocks"
BLOCK = 32
SAMPLE = 4  # every fourth token is enough to tell an expert's mean probability


class _Gather(torch.autograd.Function):
    """`states[source]`, where `slot` [T * K] says where each token's copies went: so the backward is a
    gather too, which is much cheaper than adding rows at scattered places."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, source: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.tokens = states.shape[0]
        return torch.cat([states, states.new_zeros(1, states.shape[1])]).index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slot,) = ctx.saved_tensors
        return grads[0].index_select(0, slot).view(ctx.tokens, -1, grads[0].shape[1]).sum(1), None, None


def places(chosen: Tensor, load: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each of the choices [T * K] stands among the rows of all blocks, the token that stands in
    each row (T where none does), and the expert of each block."""
    experts, (tokens, top_k) = load.shape[0], chosen.shape
    flat = chosen.flatten()
    blocks = experts + tokens * top_k // BLOCK  # enough for any load
    used = (load + BLOCK - 1) // BLOCK
    end = used.cumsum(0)
    order = flat.argsort(stable=True)
    numbered = torch.arange(flat.shape[0], device=flat.device)
    sorted_ = flat[order]
    slot = torch.empty_like(flat)
    slot[order] = numbered - (load.cumsum(0) - load)[sorted_] + (end - used)[sorted_] * BLOCK
    source = torch.full((blocks * BLOCK,), tokens, device=flat.device)
    source[slot] = numbered // top_k
    owner = torch.searchsorted(end, torch.arange(blocks, device=flat.device), right=True).clamp(max=experts - 1)
    return slot, source, owner


def _copies(mine: Tensor, weights: Tensor) -> Tensor:
    """Each block's copy [blocks, ...] of its expert's weights [N, ...]. A product with ones and zeros
    [blocks, N] is exact, and its backward is far cheaper than that of an index."""
    return (mine @ weights.to(mine.dtype).flatten(1)).view(mine.shape[0], *weights.shape[1:])


def block_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """An experts function of transformers; leaves `load` [N], `balance` and `spread` on the module."""
    kind = hidden_states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_states.dtype
    load = top_k_index.new_zeros(self.num_experts).scatter_add(
        0, top_k_index.flatten(), torch.ones_like(top_k_index.flatten())
    )
    self.load = load
    some = hidden_states[::SAMPLE].float()
    probabilities = F.linear(some, self.router[0].weight.float()).softmax(-1)
    self.balance = self.num_experts * (load / load.sum() * probabilities.mean(0)).sum()
    share = top_k_weights.float() / top_k_weights.float().sum(-1, keepdim=True)
    self.spread = -(share * (share + 1e-9).log()).sum(-1).mean() / self.log_k
    slot, source, owner = places(top_k_index, load)
    states = _Gather.apply(hidden_states.to(dtype), source, slot).view(owner.shape[0], BLOCK, -1)
    mine = F.one_hot(owner, self.num_experts).to(dtype)
    gate, up = torch.bmm(states, _copies(mine, self.gate_up_proj).transpose(1, 2)).chunk(2, dim=-1)
    each = torch.bmm(F.silu(gate) * up, _copies(mine, self.down_proj).transpose(1, 2)).flatten(0, 1)
    each = each.index_select(0, slot).view(top_k_index.shape[0], top_k_index.shape[1], -1)
    return (each * top_k_weights[..., None].to(dtype)).sum(1)


ALL_EXPERTS_FUNCTIONS.register(NAME, block_experts)


def attach(model: Any, top_k: int) -> None:
    """Let every MoE layer's experts see their router, which they need to tell how even it is."""
    for module in model.modules():
        if hasattr(module, "experts") and hasattr(module, "gate"):
            module.experts.router = (module.gate,)  # in a tuple, so that its weight is not counted twice
            module.experts.log_k = torch.tensor(float(top_k)).log().item()


def terms(model: Any) -> tuple[Tensor, Tensor, int]:
    """Of the last forward pass: means over layers of balance and spread, and experts that no token chose.

    Balance: N sum_e f_e P_e (Switch Transformer, eq. 4), 1 when the load is even; f_e is the share of
    choices that expert e received, P_e its mean probability. Spread: mean entropy of a token's K combine
    weights over log K, 1 when all K weigh the same.
    """
    layers = [m for m in model.modules() if hasattr(m, "spread")]
    if not layers:  # a dense model
        return torch.ones(()), torch.ones(()), 0
    idle = sum(int((m.load == 0).sum()) for m in layers)
    return torch.stack([m.balance for m in layers]).mean(), torch.stack([m.spread for m in layers]).mean(), idle
