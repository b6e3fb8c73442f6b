"""One layer of a plan, applied to the candidates of one forward pass. Every engine uses this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allocmoe import routing
from allocmoe.plan import Plan


def sort_candidates(weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates [T, K] in descending order of combine weight, ties in the router's order."""
    weights, order = weights.sort(dim=-1, descending=True, stable=True)
    return weights, index.gather(-1, order)


@dataclass(frozen=True)
class LayerRule:
    """Combine weights [T, K] and expert ids [T, K] in, the same with dropped pairs marked out.

    Attributes:
        token_rule, k_base, reference: see Plan.
        k: k_l. As a tensor (as `k_base` and `threshold` may be), nothing waits for the device and no
            shape depends on it: a captured graph then follows when its value is changed.
        top_k: K.
        dropped: id that marks a dropped pair; its weight is 0.
        threshold: of top_p or naee.
    """

    token_rule: str
    k: float | Tensor
    top_k: int
    dropped: int
    k_base: int | Tensor = 1
    threshold: float | Tensor = 0.0
    reference: str = "original"

    @classmethod
    def of(cls, plan: Plan, layer: int, dropped: int | None = None) -> LayerRule:
        """The rule of one MoE layer of a plan; `dropped` is the sentinel id N unless said otherwise."""
        return cls(
            plan.token_rule,
            plan.layers[layer],
            plan.top_k,
            plan.experts if dropped is None else dropped,
            plan.k_base,
            plan.thresholds[layer] if plan.thresholds else 0.0,
            plan.reference,
        )

    @property
    def ragged(self) -> bool:
        """Whether tokens of one pass may keep different numbers of experts."""
        return self.token_rule != "top_k" or isinstance(self.k, Tensor)

    def __call__(self, weights: Tensor, index: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Args: combine weights and ids [T, K] in any order, and which rows are real (None: all)."""
        plain = not self.ragged and valid is None
        if plain and self.k == self.top_k:
            return weights, index
        weights, index = sort_candidates(weights, index)
        whole = weights.sum(-1, keepdim=True) if self.reference == "survivors" else None
        if plain:
            weights, index = weights[:, : int(self.k)], index[:, : int(self.k)]
        else:
            keep = self.keep(weights.float(), valid)
            weights, index = weights.masked_fill(~keep, 0.0), index.masked_fill(~keep, self.dropped)
        if whole is not None:
            kept = weights.sum(-1, keepdim=True)
            weights = weights * torch.where(kept > 0, whole / kept, 1.0)
        return weights, index

    def keep(self, scores: Tensor, valid: Tensor | None) -> Tensor:
        """Keep mask [T, K] for sorted scores; padding keeps nothing."""
        if self.token_rule == "alloc_t":
            return routing.alloc_t(scores, self.k, self.k_base, valid)
        if self.token_rule == "top_k":
            mask = routing.top_k(scores, self.k)
        elif self.token_rule == "top_p":
            mask = routing.top_p(scores, self.threshold)
        else:
            mask = routing.naee(scores, self.threshold)
        return mask if valid is None else mask & valid[:, None]
