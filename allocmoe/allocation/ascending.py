"""More experts in deeper layers (paper A.1)."""

from __future__ import annotations

import numpy as np

from allocmoe.allocation.check import UnreachableError, shape, whole_budget
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.spec import MoESpec


def ascending(spec: MoESpec | tuple[int, int], budget: int) -> np.ndarray:
    """A rounded line from K_min to K over depth, bent to sum to B: int64 [L], monotone, steps <= 1.

    K_min is 1 unless B cannot be reached with it, then the smallest that can. After the passes for
    monotonicity and step size, internal layers are raised or lowered one at a time, the legal one
    furthest from the line first, ties to the lower index (paper A.1).

    Raises UnreachableError if no K_min reaches B, which a short and deep-K model may cause.
    """
    layers, top_k = shape(spec)
    budget = whole_budget(budget, layers, top_k)
    for low in range(1, top_k + 1):
        found = _ascending_from(low, layers, top_k, budget)
        if found is not None:
            return found
    raise UnreachableError(
        f"no ascending schedule of {layers} layers with steps of at most 1 up to {top_k} sums to {budget}"
    )


def _ascending_from(low: int, layers: int, top_k: int, budget: int) -> np.ndarray | None:
    # the line times `span`, in whole numbers: rounding errors would settle its halves and ties
    span = max(1, layers - 1)
    line = low * span + (top_k - low) * np.arange(layers)
    k = (2 * line + span) // (2 * span)
    for i in range(1, layers):  # forward: never falls, never jumps
        k[i] = min(max(k[i], k[i - 1]), k[i - 1] + 1)
    for i in range(layers - 2, -1, -1):  # backward: the same from the deep end
        k[i] = max(min(k[i], k[i + 1]), k[i + 1] - 1)
    while k.sum() != budget:
        step = 1 if k.sum() < budget else -1
        legal = [i for i in range(1, layers - 1) if _legal(k, i, step, low, top_k)]
        if not legal:
            return None
        # furthest from the line on the side that the step mends
        best = max(legal, key=lambda i: (step * (line[i] - k[i] * span), -i))
        k[best] += step
    return k


def _legal(k: np.ndarray, i: int, step: int, low: int, top_k: int) -> bool:
    new = k[i] + step
    return low <= new <= top_k and 0 <= new - k[i - 1] <= 1 and 0 <= k[i + 1] - new <= 1


def _allocate(request: Request) -> list[float]:
    return ascending(request.shape, request.budget).tolist()


RULE = LayerRule("ascending", _allocate)
