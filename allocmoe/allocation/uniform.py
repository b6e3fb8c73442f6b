"""The budget spread evenly over the layers, in whole numbers (paper A.1)."""

from __future__ import annotations

import numpy as np

from allocmoe.allocation.check import shape, whole_budget
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.spec import MoESpec


def uniform(spec: MoESpec | tuple[int, int], budget: int) -> np.ndarray:
    """B spread evenly: `k_l = floor((l+1) B / L) - floor(l B / L)`, int64 of shape [L], sum B."""
    layers, top_k = shape(spec)
    budget = whole_budget(budget, layers, top_k)
    edges = np.arange(layers + 1) * budget // layers
    return np.diff(edges)


def _allocate(request: Request) -> list[float]:
    return uniform(request.shape, request.budget).tolist()


RULE = LayerRule("uniform", _allocate)
