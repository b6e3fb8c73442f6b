"""SEER-MoE's share of experts (arXiv 2404.05089): as many experts stay in every layer.

The budget caps distinct experts, not activations: `B / (L K)` of all experts stay, every token still uses K of them.
"""

from __future__ import annotations

from allocmoe.allocation.check import UnreachableError, whole_budget
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.spec import MoESpec


def experts_that_stay(spec: MoESpec, budget: int) -> list[int]:
    """M_l per layer: `floor(N B / K)` experts over all layers, spread evenly in whole numbers.

    Raises UnreachableError where that is fewer than K for a layer, or less than one activation's worth, N / K.
    """
    layers, experts, top_k = spec.layers, spec.experts, spec.top_k
    budget = whole_budget(budget, layers, top_k)
    total, least = experts * budget // top_k, max(top_k, -(-experts // top_k))
    if total < layers * least:
        lowest = -(-layers * least * top_k // experts)
        raise UnreachableError(
            f"a budget of {budget} leaves {total / layers:.3g} of {experts} experts a layer, and pruning keeps "
            f"at least {least}: give a budget of {lowest} or more"
        )
    return [(layer + 1) * total // layers - layer * total // layers for layer in range(layers)]


def allocate(request: Request) -> list[float]:
    """k_l = K M_l / N, the share of a layer's experts that stay in activations."""
    spec = request.spec
    return [spec.top_k * stay / spec.experts for stay in experts_that_stay(spec, request.budget)]


RULE = LayerRule("seer", allocate, needs=("soft_counts",), options={"rank_by": "soft_counts"})
