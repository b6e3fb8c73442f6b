"""Alloc-T: spend a layer's budget on the strongest routing scores of the whole batch (eq. 7-10)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allocmoe.errors import AllocMoEError


def alloc_t(scores: Tensor, budget: float, k_base: int = 1, valid: Tensor | None = None) -> Tensor:
    """Keep every token's top `k_base`, then the strongest of all remaining candidates.

    Args:
        scores: [T, K], sorted descending per row.
        budget: k_l, mean activations per token; `floor(budget * T)` are kept in all, clipped to
            what exists. May be fractional.
        k_base: experts every token keeps; more than the budget allows counts as `floor(budget)`.
        valid: bool [T], False for padding rows, which neither get nor take budget.

    Returns:
        bool [T, K]. A row's kept entries are a prefix; ties go to the earlier token, then the
        higher rank, so the result is the same on every run.

    The greedy choice is the exact optimum of eq. 8-10: the constraint set is a matroid.
    """
    tokens, top = scores.shape
    if not math.isfinite(budget) or not 0 <= budget <= top:
        raise AllocMoEError(f"Alloc-T needs a budget within 0..{top} per token, got {budget}")
    if k_base < 0:
        raise AllocMoEError(f"k_base must not be negative, got {k_base}")
    base = min(int(k_base), math.floor(budget))
    ranks = torch.arange(top, device=scores.device)
    keep = (ranks < base).expand(tokens, top)
    if valid is not None:
        keep = keep & valid[:, None]
    if base == top:
        return keep
    pool = scores[:, base:]
    if valid is None:
        rest: Tensor | int = math.floor(budget * tokens + 1e-6) - base * tokens
    else:
        pool = pool.masked_fill(~valid[:, None], -math.inf)
        real = valid.sum()  # stays on the device: no synchronisation
        rest = ((budget * real.double() + 1e-6).floor().long() - base * real).clamp(max=real * (top - base))
    order = pool.flatten().sort(descending=True, stable=True).indices
    chosen = torch.zeros(order.shape, dtype=torch.bool, device=scores.device)
    chosen[order] = torch.arange(len(order), device=scores.device) < rest
    return torch.cat([keep[:, :base], chosen.view(tokens, top - base)], dim=1)
