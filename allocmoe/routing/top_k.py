"""Plain top-k: the k strongest experts of every token (paper eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from allocmoe.errors import AllocMoEError


def top_k(scores: Tensor, k: float | Tensor) -> Tensor:
    """Keep the first k of each row.

    Args:
        scores: [T, K], sorted descending per row.
        k: whole number within 0..K; as a scalar tensor it is not checked.

    Returns:
        bool [T, K].
    """
    if not isinstance(k, Tensor) and (not 0 <= k <= scores.shape[-1] or k != int(k)):
        raise AllocMoEError(f"top-k needs a whole k within 0..{scores.shape[-1]}, got {k}")
    return (torch.arange(scores.shape[-1], device=scores.device) < k).expand_as(scores)
