"""Counting what was spent: activations, tokens and distinct experts per layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Spent:
    """Sums over forward passes, per MoE layer.

    Attributes:
        activations: [L] kept (token, expert) pairs.
        tokens: [L] real tokens seen.
        distinct: [L] distinct experts, summed over passes.
        passes: [L] forward passes.
        load: [L, N] activations per expert.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.shape = (layers, experts)
        self.reset()

    def reset(self) -> None:
        layers, _ = self.shape
        self.load = torch.zeros(self.shape, dtype=torch.long)
        self.tokens = torch.zeros(layers, dtype=torch.long)
        self.distinct = torch.zeros(layers, dtype=torch.long)
        self.passes = torch.zeros(layers, dtype=torch.long)

    def add(self, layer: int, index: Tensor, valid: Tensor | None) -> None:
        """Count one pass: `index` [T, k] holds expert ids, N where dropped."""
        if valid is not None:
            index = index[valid]
        hits = torch.bincount(index.reshape(-1).cpu(), minlength=self.shape[1] + 1)[: self.shape[1]]
        self.load[layer] += hits
        self.tokens[layer] += len(index)
        self.distinct[layer] += (hits > 0).sum()
        self.passes[layer] += 1

    @property
    def activations(self) -> Tensor:
        return self.load.sum(1)

    def summary(self) -> dict[str, Any]:
        """Per token and layer: mean activations, and mean distinct experts per forward pass."""
        per_layer = self.activations / self.tokens.clamp(min=1)
        return {
            "per_token": round(float(per_layer.sum()), 6),
            "per_layer": [round(float(v), 6) for v in per_layer],
            "distinct_per_layer": [round(float(v), 4) for v in self.distinct / self.passes.clamp(min=1)],
        }
