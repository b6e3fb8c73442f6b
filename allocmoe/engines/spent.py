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

    def add(self, layer: int, index: Tensor, valid: Tensor | None) -> None:
        """Count one pass: `index` [T, k] holds expert ids, N or -1 where dropped. Nothing waits for the
        device; a pass of padding alone is none."""
        experts = self.shape[1]
        index = index.long() % (experts + 1)
        if valid is not None:
            index = index.masked_fill(~valid[:, None], experts)
        slots = index.new_zeros(experts + 1)
        hits = slots.scatter_add_(0, index.flatten(), torch.ones_like(index.flatten()))[:experts]
        real: Any = len(index) if valid is None else valid.sum()
        self.load[layer] += hits
        self.tokens[layer] += real
        self.distinct[layer] += (hits > 0).sum()
        self.passes[layer] += real > 0

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
