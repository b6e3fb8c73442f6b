"""Plain top-k: the k strongest experts of every token (paper eq. 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocmoe.errors import AllocMoEError
from allocmoe.routing.rule import Candidates, Numbers, Selection, TokenRule, kept

if TYPE_CHECKING:
    from torch import Tensor


def top_k(scores: Tensor, k: float | Tensor) -> Tensor:
    """Keep the first k of each row.

    Args:
        scores: [T, K], sorted descending per row.
        k: whole number within 0..K; as a scalar tensor it is not checked.

    Returns:
        bool [T, K].
    """
    import torch

    if not isinstance(k, torch.Tensor) and (not 0 <= k <= scores.shape[-1] or k != int(k)):
        raise AllocMoEError(f"top-k needs a whole k within 0..{scores.shape[-1]}, got {k}")
    return (torch.arange(scores.shape[-1], device=scores.device) < k).expand_as(scores)


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    import torch

    k = numbers["k"]
    if not isinstance(k, torch.Tensor):  # fewer columns are cheaper than a mask
        return Selection(candidates.weights[..., : int(k)], candidates.ids[..., : int(k)])
    return kept(candidates, top_k(candidates.weights, k))


RULE = TokenRule(
    "top_k",
    _select,
    keep_all=lambda top_k, experts: {},
    ragged=False,
    untouched=True,
    alone=True,
    by_scores=True,
)
