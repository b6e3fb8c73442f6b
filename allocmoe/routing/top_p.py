"""Top-P, the token rule of Dynamic-MoE (arXiv 2403.07652)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule, kept

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request


def top_p(scores: Tensor, threshold: float | Tensor) -> Tensor:
    """Keep experts in order up to and including the first at which the cumulative score exceeds P.

    Args:
        scores: [T, K], sorted descending per row.
        threshold: P; below the smallest score it keeps one expert, at 1 or more it keeps all K.

    Returns:
        bool [T, K].
    """
    import torch

    before = scores.cumsum(-1)[:, :-1] <= threshold
    first = torch.ones_like(before[:, :1]) if scores.shape[1] > 1 else torch.ones_like(scores, dtype=torch.bool)
    return torch.cat([first, before], dim=1)


def threshold_for(scores: Tensor, k: float) -> float:
    """P such that `top_p` keeps k experts per token on these scores, in closed form.

    Token t keeps `1 + #{j < K: c_j <= P}` experts, so P is the `(k - 1)/(K - 1)` quantile of the
    pooled cumulative sums c_1..c_{K-1}.
    """
    top = scores.shape[1]
    pooled = scores.cumsum(-1)[:, :-1].flatten().sort().values
    count = round((k - 1) / max(1, top - 1) * len(pooled))
    return float(pooled[count - 1]) if count > 0 else -1.0


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    return kept(candidates, top_p(candidates.weights.float(), numbers["threshold"]))


def _calibrate(request: Request, layers: Sequence[float]) -> dict[str, Any]:
    """The thresholds that were calibrated for each layer's k."""
    by_k = request.quantity("top_p")
    return {"threshold": [by_k[int(k) - 1][layer] for layer, k in enumerate(layers)]}


RULE = TokenRule(
    "top_p",
    _select,
    keep_all=lambda top_k, experts: {"threshold": 3e38},
    parameters={"threshold": Parameter("the cumulative score at which a token has enough")},
    calibrate=_calibrate,
    needs=("top_p",),
    absolute=True,
    alone=True,
)
