"""Rules with one threshold for all layers: what each layer keeps on average follows from it.

A curve is {"threshold": [G], "kept": [G][L]}: the mean number of experts that each layer keeps when every layer obeys
a threshold, from 1 in every layer to K. So a budget gives the threshold and k_l at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from allocmoe.errors import AllocMoEError


def at(curve: Mapping[str, Any], budget: float) -> tuple[float, list[float]]:
    """The threshold that spends a budget and k_l [L], whose sum it is.

    Interpolated where the curve first crosses the budget: thresholds geometrically where both are positive, since
    they may lie decades apart. So the threshold is monotone in the budget even where a measured curve is not.

    Raises AllocMoEError for a curve that is none, or does not reach the budget.
    """
    thresholds, kept = curve["threshold"], curve["kept"]
    if len(thresholds) != len(kept):
        raise AllocMoEError(
            f"a curve has {len(thresholds)} thresholds and {len(kept)} rows of kept: profile the model again"
        )
    totals = [math.fsum(row) for row in kept]
    above = next((i for i, total in enumerate(totals) if total >= budget), None)
    if above is None or (above == 0 and totals[0] > budget):
        raise AllocMoEError(f"no threshold of the profile's curve spends {budget:g}: profile the model again")
    if totals[above] == budget:
        return float(thresholds[above]), [float(k) for k in kept[above]]
    below = above - 1
    share = (budget - totals[below]) / (totals[above] - totals[below])
    layers = [(1 - share) * low + share * high for low, high in zip(kept[below], kept[above], strict=True)]
    return _between(float(thresholds[below]), float(thresholds[above]), share), layers


def _between(low: float, high: float, share: float) -> float:
    if low > 0 and high > 0:
        return math.exp((1 - share) * math.log(low) + share * math.log(high))
    return (1 - share) * low + share * high


def layers_at(curve: Mapping[str, Any], budget: float, top_k: int) -> list[float]:
    """k_l [L] of a budget, within 1..K; their sum is at most the budget, to rounding."""
    return [min(max(k, 1.0), float(top_k)) for k in at(curve, budget)[1]]
