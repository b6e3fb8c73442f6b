"""One split feed-forward block in the form that trains fast.

Every neuron is computed, and those of experts that a token did not choose are multiplied with 0: a third of the work is
for nothing, but experts of 32 neurons are too narrow for a CPU to sort tokens by. It is exactly the block that
`checkpoint` writes for transformers and vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allocmoe.errors import AllocMoEError


@dataclass(frozen=True)
class Shape:
    """How a feed-forward layer is split.

    Attributes:
        experts, width: N routed experts of so many neurons each.
        top_k: K, experts that a token chooses.
        shared: neurons that every token has, a multiple of `width`.
    """

    experts: int = 24
    width: int = 32
    top_k: int = 8
    shared: int = 768

    def check(self, neurons: int) -> None:
        """AllocMoEError if a layer of so many neurons cannot be split in this way."""
        if min(self.experts, self.width, self.top_k, self.shared) < 1 or self.top_k > self.experts:
            raise AllocMoEError(f"{self} makes no model: expected at least 1 of each, and top_k up to experts")
        if self.shared % self.width:
            raise AllocMoEError(f"{self.shared} shared neurons are no multiple of an expert's {self.width}")
        if (total := self.shared + self.experts * self.width) != neurons:
            raise AllocMoEError(f"{self} has {total} neurons, and the model's layers have {neurons}: make them equal")


class MaskedBlock(nn.Module):
    """The MoE block: y = 2 sigmoid(g x) S(x) + scale * sum over the chosen e of p_e(x) E_e(x).

    p is the softmax of the router's logits over all N experts, not renormalised over the chosen, as in Qwen1.5-MoE and
    OLMoE. `scale` stands for what p takes away; in a checkpoint it is part of the experts' down projections, and the 2
    of the shared expert's. Here all projections keep the size that they have in the dense model, so that one learning
    rate fits them all.

    Attributes:
        gate, up: [I, H], rows in the order of the shared neurons, expert 0's, expert 1's ...
        down: [H, I], its columns in the same order.
        router: [N, H].
        shared_gate: [1, H], 0 at the start: the shared neurons then count once.
        scale: scalar, not trained.
        top_k: of the forward passes to come; N makes every expert active.
    """

    scale: Tensor

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, router: Tensor, scale: float, shape: Shape) -> None:
        super().__init__()
        shape.check(len(gate))
        self.shape, self.top_k = shape, shape.top_k
        self.gate, self.up, self.down = (nn.Parameter(w.clone().contiguous()) for w in (gate, up, down))
        self.router = nn.Parameter(router.clone())
        self.shared_gate = nn.Parameter(torch.zeros_like(router[:1]))
        self.register_buffer("scale", torch.tensor(scale, dtype=router.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]; projections are multiplied in the type of `x`, routing is in the parameters' own."""
        flat = x.reshape(-1, x.shape[-1])
        gate, up = (F.linear(flat, w.to(x.dtype)) for w in (self.gate, self.up))
        hidden = (F.silu(gate) * up).view(len(flat), -1, self.shape.width)
        hidden = hidden * self.factors(flat).to(x.dtype)[..., None]
        return F.linear(hidden.flatten(1), self.down.to(x.dtype)).view(x.shape)

    def factors(self, flat: Tensor) -> Tensor:
        """What the neurons of [T, H] states are multiplied with, one for every `width` of them: [T, I / width]."""
        flat = flat.to(self.router.dtype)
        shared = 2 * F.linear(flat, self.shared_gate).sigmoid()
        return torch.cat([shared.expand(-1, self.shape.shared // self.shape.width), self.scale * self.weights(flat)], 1)

    def weights(self, flat: Tensor) -> Tensor:
        """Routing weights [T, N] of states [T, H], 0 of the experts that a token did not choose."""
        p = F.linear(flat.to(self.router.dtype), self.router).softmax(-1)
        chosen = torch.zeros_like(p).scatter_(1, p.topk(self.top_k, dim=-1).indices, 1.0)
        return p * chosen


def neurons(flat: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """Activations [T, I] of a gated layer's neurons for states [T, H]."""
    return F.silu(F.linear(flat, gate)) * F.linear(flat, up)


def student(dense: Any, blocks: list[MaskedBlock]) -> Any:
    """The dense model with its feed-forward layers replaced; nothing else of it is trained."""
    dense.requires_grad_(False)
    for layer, block in zip(dense.model.layers, blocks, strict=True):
        layer.mlp = block
    return dense
