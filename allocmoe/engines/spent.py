"""Counting what was spent: activations, tokens and distinct experts per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

COUNTS = ("load", "tokens", "distinct", "passes")


class Spent:
    """Sums over forward passes, per MoE layer.

    Attributes:
        activations: [L] kept (token, expert) pairs.
        tokens: [L] real tokens seen.
        distinct: [L] distinct experts, summed over passes.
        passes: [L] forward passes.
        load: [L, N] activations per expert.
    """

    def __init__(self, layers: int, experts: int, device: torch.device | str = "cpu") -> None:
        self.shape = (layers, experts)
        self.load = torch.zeros(self.shape, dtype=torch.long, device=device)
        self.tokens, self.distinct, self.passes = torch.zeros(3, layers, dtype=torch.long, device=device)

    def reset(self) -> None:
        """Back to zero, in place: a captured graph goes on adding to the same tensors."""
        for name in COUNTS:
            getattr(self, name).zero_()

    def add(self, layer: int, index: Tensor, valid: Tensor | None, passes: int = 1) -> None:
        """Count one pass: `index` [T, k] holds expert ids, N or -1 where dropped. Nothing waits for the
        device; a pass of padding alone is none. With several passes at once row r is of pass r % passes."""
        experts = self.shape[1]
        index = index.long() % (experts + 1)
        if valid is not None:
            index = index.masked_fill(~valid[:, None], experts)
        tokens: Any = len(index) if valid is None else valid.sum()
        real: Any = tokens > 0
        if passes > 1:
            index = index + (experts + 1) * (torch.arange(len(index), device=index.device) % passes)[:, None]
            real = passes if valid is None else valid.view(-1, passes).any(0).sum()
        slots = index.new_zeros(passes * (experts + 1))
        slots.scatter_add_(0, index.flatten(), torch.ones_like(index.flatten()))
        hits = slots.view(passes, experts + 1)[:, :experts]
        self.load[layer] += hits.sum(0)
        self.tokens[layer] += tokens
        self.distinct[layer] += (hits > 0).sum()
        self.passes[layer] += real

    @property
    def activations(self) -> Tensor:
        return self.load.sum(1)

    def to_dict(self) -> dict[str, Any]:
        """The counts as lists."""
        return {name: getattr(self, name).tolist() for name in COUNTS}

    @classmethod
    def merged(cls, parts: Sequence[Mapping[str, Any]]) -> Spent:
        """One from the `to_dict` of several workers: for each layer the first that has it. Workers that
        share a layer (tensor parallelism) have the same counts of it."""
        found = cls(len(parts[0]["load"]), len(parts[0]["load"][0]))
        for layer in range(found.shape[0]):
            part = next((p for p in parts if p["passes"][layer]), parts[0])
            for name in COUNTS:
                getattr(found, name)[layer] = torch.tensor(part[name][layer])
        return found

    def summary(self) -> dict[str, Any]:
        """Per token and layer: mean activations, and mean distinct experts per forward pass."""
        per_layer = self.activations / self.tokens.clamp(min=1)
        return {
            "per_token": round(float(per_layer.sum()), 6),
            "per_layer": [round(float(v), 6) for v in per_layer],
            "distinct_per_layer": [round(float(v), 4) for v in self.distinct / self.passes.clamp(min=1)],
        }
