"""Alloc-T: spend a layer's budget on the strongest routing scores of the whole batch (eq. 7-10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.errors import AllocMoEError
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule, kept

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request


def alloc_t(scores: Tensor, budget: float | Tensor, k_base: int | Tensor = 1, valid: Tensor | None = None) -> Tensor:
    """Keep every token's top `k_base`, then the strongest of all remaining candidates.

    Args:
        scores: [T, K], sorted descending per row; [passes, T, K] for several passes, each by itself.
        budget: k_l, mean activations per token; `floor(budget * T)` are kept in all, clipped to
            what exists. May be fractional, and may be a scalar tensor on the scores' device
            (float64; then it is not checked), so that a captured graph can be given another.
        k_base: experts every token keeps; more than the budget allows counts as `floor(budget)`.
        valid: bool [T] or [passes, T], False for padding rows, which neither get nor take budget.

    Returns:
        bool like scores. A row's kept entries are a prefix; ties go to the earlier token, then the
        higher rank, so the result is the same on every run. Nothing waits for the device.

    The greedy choice is the exact optimum of eq. 8-10: the constraint set is a matroid.
    """
    import torch

    tokens, top = scores.shape[-2:]
    real: int | Tensor = tokens
    if isinstance(budget, torch.Tensor):
        base: int | Tensor = budget.floor().clamp(max=k_base)
    else:
        if not math.isfinite(budget) or not 0 <= budget <= top:
            raise AllocMoEError(f"Alloc-T needs a budget within 0..{top} per token, got {budget}")
        if not isinstance(k_base, torch.Tensor) and k_base < 0:
            raise AllocMoEError(f"k_base must not be negative, got {k_base}")
        base = min(int(k_base), math.floor(budget))
    # a token's first k_base come before all else, padding after all else; then one cut serves the batch
    rank = torch.arange(top, device=scores.device)
    worth = scores.masked_fill(rank < base, math.inf)
    if valid is not None:
        worth = worth.masked_fill(~valid[..., None], -math.inf)
        real = valid.sum(-1, keepdim=True, dtype=torch.float64)
    spend = budget * real + 1e-6
    order = worth.flatten(-2).sort(descending=True, stable=True).indices
    place = torch.arange(tokens * top, device=scores.device)
    chosen = place < (math.floor(spend) if isinstance(spend, float | int) else spend.floor())
    chosen = chosen.expand(order.shape)
    return torch.empty_like(chosen).scatter_(-1, order, chosen).view(scores.shape)


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    return kept(candidates, alloc_t(candidates.scores, numbers["k"], numbers["k_base"], candidates.valid))


def _calibrate(request: Request, _layers: Sequence[float]) -> dict[str, Any]:
    return {"k_base": request.options["k_base"]}


RULE = TokenRule(
    "alloc_t",
    _select,
    keep_all=lambda top_k, experts: {"k_base": 1},
    parameters={"k_base": Parameter("experts that every token keeps", per="plan", least=0, whole=True)},
    calibrate=_calibrate,
    options={"k_base": 1},
    whole=False,
    many=True,
    by_scores=True,
)
