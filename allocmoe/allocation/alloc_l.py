"""Alloc-L: the exact allocation of a budget across layers (paper eq. 3-6)."""

from __future__ import annotations

import numpy as np

from allocmoe.allocation.check import matrix, whole_budget
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.errors import AllocMoEError

NORMALISATIONS = ("raw", "ratio", "log")
DEFAULT_NORMALIZE = "ratio"
"""Of the methods: what measured best; `alloc_l` itself minimises what it is given."""


def normalised(sensitivity: np.ndarray, how: str) -> np.ndarray:
    """The matrix the programme minimises, float64 [L, K].

    "raw" is S as Algorithm 1 stores it; "ratio" is `S / S[:, K] - 1`, the loss of a row relative
    to its own start; "log" is `log S`, which makes a row's differences those of the mean NLL.
    """
    table = matrix(sensitivity, "the sensitivity")
    if how == "raw":
        return table
    if how in ("ratio", "log") and (table <= 0).any():
        raise AllocMoEError(f"normalisation {how!r} needs positive perplexities")
    if how == "ratio":
        return table / table[:, -1:] - 1
    if how == "log":
        return np.log(table)
    raise AllocMoEError(f"unknown normalisation {how!r}: expected one of {', '.join(NORMALISATIONS)}")


def alloc_l(sensitivity: np.ndarray, budget: int, normalize: str = "raw", *, exact: bool = False) -> np.ndarray:
    """Minimise `sum_l S[l, k_l]` subject to `sum_l k_l <= B` and `1 <= k_l <= K`.

    Args:
        sensitivity: [L, K], column k-1 is S[., k] (perplexity, or any cost).
        budget: B, a whole number within L..L*K.
        normalize: "raw", "ratio" or "log"; see `normalised`.
        exact: spend all of B. A measured S is not quite monotone, and `<= B` then leaves budget
            unspent wherever noise made more experts look worse than fewer.

    Returns:
        int64 [L]. Ties go to the larger total, then to larger k in earlier layers.

    Grouped-knapsack dynamic programme, O(L * B * K) (eq. 6). It runs from the last layer to the
    first, so that the forward walk can settle ties in favour of earlier layers.
    """
    cost = normalised(sensitivity, normalize)
    layers, top_k = cost.shape
    budget = whole_budget(budget, layers, top_k)
    # best[l, b]: least cost of layers l.. spending exactly b
    best = np.full((layers + 1, budget + 1), np.inf)
    best[layers, 0] = 0.0
    for layer in range(layers - 1, -1, -1):
        for k in range(1, top_k + 1):
            if k <= budget:
                offer = best[layer + 1, : budget + 1 - k] + cost[layer, k - 1]
                np.minimum(best[layer, k:], offer, out=best[layer, k:])
    left = budget if exact else int(budget - np.argmin(best[0, ::-1]))
    k_l = np.zeros(layers, dtype=np.int64)
    for layer in range(layers):
        offers = [best[layer + 1, left - k] + cost[layer, k - 1] if k <= left else np.inf for k in range(1, top_k + 1)]
        k_l[layer] = top_k - int(np.argmin(offers[::-1]))
        left -= int(k_l[layer])
    return k_l


def _allocate(request: Request) -> list[float]:
    return alloc_l(
        np.array(request.quantity("perplexity")), request.budget, request.options["normalize"], exact=True
    ).tolist()  # fmt: skip


RULE = LayerRule("alloc_l", _allocate, needs=("perplexity",), options={"normalize": DEFAULT_NORMALIZE})
