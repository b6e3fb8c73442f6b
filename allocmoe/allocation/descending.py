"""More experts in earlier layers (paper A.1)."""

from __future__ import annotations

import numpy as np

from allocmoe.allocation.ascending import ascending
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.spec import MoESpec


def descending(spec: MoESpec | tuple[int, int], budget: int) -> np.ndarray:
    """`ascending` read backwards."""
    return ascending(spec, budget)[::-1].copy()


def _allocate(request: Request) -> list[float]:
    return descending(request.shape, request.budget).tolist()


RULE = LayerRule("descending", _allocate)
