"""Costs that others have published. What follows from one is a prediction, for its authors' model and machine."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from allocmoe.allocation.cost import Cost
from allocmoe.errors import AllocMoEError

OEA_H100 = Cost(layer=33.9, distinct=2.908)
"""Microseconds of one MoE layer at decode, as OEA's authors (arXiv 2511.02237) fitted them on their model and an
NVIDIA H100. An expert of another size takes another time, and pairs and everything outside MoE layers are not in it."""


def predicted_speedup(whole: Sequence[float], touched: Sequence[float], cost: Cost = OEA_H100) -> float:
    """Time of the MoE layers of an unchanged model over theirs under a plan, by a published cost of distinct experts.

    Args:
        whole, touched: [L] mean distinct experts of a pass in each layer, of the unchanged model and under the plan.
        cost: of a layer; its pairs are not counted.

    Raises AllocMoEError for layers that do not pair up, or none.
    """
    if not whole or len(whole) != len(touched):
        raise AllocMoEError(f"a prediction needs as many layers on both sides, got {len(whole)} and {len(touched)}")
    before, after = (cost.layer + cost.distinct * fmean(counts) for counts in (whole, touched))
    return before / after
