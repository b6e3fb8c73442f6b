"""Measured quantities: what rules need to know of a model. One file each, one row here."""

from __future__ import annotations

from allocmoe.errors import AllocMoEError, shown
from allocmoe.profile.quantities import (
    adapmoe,
    contribution_threshold,
    curvature,
    decode,
    decode_pairs,
    distances,
    fisher,
    naee,
    norms,
    perplexity,
    rescale,
    saliency,
    score_threshold,
    soft_counts,
    top_p,
    xmoe,
)  # fmt: skip
from allocmoe.profile.quantities.quantity import Quantity, Setting

QUANTITIES = {
    q.name: q
    for q in (
        perplexity.QUANTITY, distances.QUANTITY, top_p.QUANTITY, naee.QUANTITY, fisher.QUANTITY, adapmoe.QUANTITY,
        xmoe.QUANTITY, soft_counts.QUANTITY, saliency.QUANTITY, decode.QUANTITY,
        decode_pairs.QUANTITY, score_threshold.QUANTITY, norms.QUANTITY, rescale.QUANTITY,
        contribution_threshold.QUANTITY, curvature.QUANTITY,
    )
}  # fmt: skip


def quantity(name: str) -> Quantity:
    """The quantity of that name; AllocMoEError for a name that none has."""
    if name not in QUANTITIES:
        raise AllocMoEError(f"unknown quantity {shown(name)}: expected one of {', '.join(QUANTITIES)}")
    return QUANTITIES[name]


__all__ = ["QUANTITIES", "Quantity", "Setting", "quantity"]
