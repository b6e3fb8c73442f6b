"""asv benchmarks of the project's own code: the allocation programme and the token rules."""

from __future__ import annotations

import numpy as np
import torch

from allocmoe import allocation, routing

SHAPES = {"olmoe": (16, 8, 64), "qwen": (24, 4, 48), "deepseek": (26, 6, 78)}


class AllocL:
    """The exact programme on the paper's three shapes, at half the budget."""

    params = list(SHAPES)
    param_names = ["shape"]

    def setup(self, shape: str) -> None:
        layers, top_k, self.budget = SHAPES[shape]
        self.table = np.sort(np.random.default_rng(0).random((layers, top_k)) + 1, axis=1)[:, ::-1]

    def time_alloc_l(self, shape: str) -> None:
        allocation.alloc_l(self.table, self.budget)


class TokenRules:
    """Keep masks for T tokens at K = 8, k = 4."""

    params = [["top_k", "alloc_t", "top_p", "naee"], [8, 256, 4096]]
    param_names = ["rule", "tokens"]

    def setup(self, rule: str, tokens: int) -> None:
        logits = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(0))
        self.scores = logits.softmax(-1).topk(8).values
        self.argument = {"top_k": 4, "alloc_t": 4.0, "top_p": 0.2, "naee": 0.4}[rule]

    def time_keep(self, rule: str, tokens: int) -> None:
        getattr(routing, rule)(self.scores, self.argument)
