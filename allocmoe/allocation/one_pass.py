"""Layers by a profile of one pass forward and backward: see the quantity `curvature`."""

from __future__ import annotations

import numpy as np

from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.errors import AllocMoEError, shown

UNDER = ("alloc_t", "top_k")


def by_halves(cost: np.ndarray, budget: int) -> list[float]:
    """k_l in 1..K by halves that add up to the budget at the least summed cost [2K - 1, L], exactly.

    A layer's k is (u + 1) / 2 for a whole u from 1: so the u add up to 2 B - L, and Alloc-L's programme finds them.
    """
    halves = alloc_l(cost.T, 2 * budget - cost.shape[1], "raw", exact=True)
    return ((halves + 1) / 2).tolist()


def _allocate(request: Request) -> list[float]:
    from allocmoe.routing.steps import table_of

    under = str(request.options["under"])
    if under not in UNDER:
        raise AllocMoEError(f"unknown under {shown(under)}: expected {' or '.join(UNDER)}")
    cost = np.array(request.quantity("curvature")[table_of(under, str(request.options["scores"]))])
    if under == "alloc_t":
        return by_halves(cost, request.budget)
    return alloc_l(cost.T, request.budget, "raw", exact=True).tolist()


RULE = LayerRule("one_pass", _allocate, needs=("curvature",), options={"under": "alloc_t"})
