"""AdapMoE's adaptive gating (arXiv 2408.10284), extended from its top-2 to top-K.

A token drops the longest tail of its candidates with `(tail mass / candidate mass)^2 * h_l <= T`: the estimate of what
the loss rises by, with h_l the layer's Fisher term and T one threshold for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.routing import curve
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule, kept

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request

ONE, EVERY = 3e38, -1.0
"""Thresholds under which a token keeps its first candidate alone, and all."""


def adapmoe(scores: Tensor, fisher: float | Tensor, threshold: float | Tensor) -> Tensor:
    """Keep the first candidate, and every other whose tail (itself and all after it) costs more than T.

    Args:
        scores: [T, K], sorted descending per row, none negative.
        fisher: h_l.
        threshold: T; below 0 it keeps all K, at h_l or more it keeps one. Both may be scalar tensors.

    Returns:
        bool [T, K]; a row's kept entries are a prefix, since tails shrink along it.
    """
    import torch

    tail = _tails(scores)
    whole = tail[:, :1]
    # no division: in whole numbers both sides are exact. Where all scores are zero, so is the tail's share.
    keep = tail.square() * fisher > threshold * torch.where(whole > 0, whole.square(), 1.0)
    return torch.cat([torch.ones_like(keep[:, :1]), keep[:, 1:]], dim=1)


def cost_of_tail(scores: Tensor, numbers: Numbers) -> Tensor:
    """[T, K - 1]: a candidate after the first is kept where the cost of its tail exceeds T. Scores [T, K], sorted."""
    tail = _tails(scores)
    return (tail[:, 1:] / tail[:, :1].clamp_min(1e-30)).square() * numbers["fisher"]


def _tails(scores: Tensor) -> Tensor:
    return scores.flip(-1).cumsum(-1).flip(-1)


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    return kept(candidates, adapmoe(candidates.weights.float(), numbers["fisher"], numbers["threshold"]))


def _calibrate(request: Request, _layers: Sequence[float]) -> dict[str, Any]:
    threshold, _ = curve.at(request.quantity("adapmoe"), request.budget)
    return {"threshold": threshold, "fisher": list(request.quantity("fisher"))}


RULE = TokenRule(
    "adapmoe",
    _select,
    keep_all=lambda top_k, experts: {"threshold": EVERY, "fisher": 1.0},
    parameters={
        "threshold": Parameter("the estimated cost up to which a tail is dropped", per="plan"),
        "fisher": Parameter("mean squared gradient of the loss at the layer's output", least=0),
    },
    calibrate=_calibrate,
    needs=("fisher", "adapmoe"),
    whole=False,
    alone=True,
)
