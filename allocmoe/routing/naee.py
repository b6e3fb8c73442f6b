"""NAEE's dynamic expert skipping (arXiv 2402.14800), extended from top-2 to top-K (paper A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule, kept

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request


def naee(scores: Tensor, beta: float | Tensor) -> Tensor:
    """Drop rank j >= 2 of a token if its score is below `beta` times the token's first.

    Args:
        scores: [T, K], sorted descending per row.
        beta: 0 keeps all K, above 1 keeps one.

    Returns:
        bool [T, K].
    """
    import torch

    keep = _ratios(scores) >= beta
    return torch.cat([torch.ones_like(keep[:, :1]), keep[:, 1:]], dim=1)


def beta_for(scores: Tensor, k: float) -> float:
    """beta such that `naee` keeps k experts per token on these scores, in closed form.

    The `1 - (k - 1)/(K - 1)` quantile of the pooled ratios of ranks 2..K.
    """
    pooled = _ratios(scores)[:, 1:].flatten().sort(descending=True).values
    count = round((k - 1) / max(1, scores.shape[1] - 1) * len(pooled))
    return float(pooled[count - 1]) if count > 0 else 2.0


def _ratios(scores: Tensor) -> Tensor:
    import torch

    # a first score of zero means that every score is zero: ratios of 1, nothing to tell apart
    first = scores[:, :1]
    return torch.where(first > 0, scores / first.clamp_min(torch.finfo(scores.dtype).tiny), 1.0)


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    return kept(candidates, naee(candidates.weights.float(), numbers["threshold"]))


def _calibrate(request: Request, layers: Sequence[float]) -> dict[str, Any]:
    """The thresholds that were calibrated for each layer's k."""
    by_k = request.quantity("naee")
    return {"threshold": [by_k[int(k) - 1][layer] for layer, k in enumerate(layers)]}


RULE = TokenRule(
    "naee",
    _select,
    keep_all=lambda top_k, experts: {"threshold": -1.0},
    parameters={"threshold": Parameter("the share of the first score below which an expert is dropped")},
    calibrate=_calibrate,
    needs=("naee",),
    alone=True,
)
