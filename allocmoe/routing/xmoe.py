"""XMoE's token rule (arXiv 2403.18926): top-P with one P for all layers, capped at K."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.routing import curve
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule, kept
from allocmoe.routing.top_p import top_p

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request

ONE, EVERY = -1.0, 3e38
"""Thresholds under which a token keeps its first candidate alone, and all."""


def mass_before(scores: Tensor, _numbers: Numbers) -> Tensor:
    """[T, K - 1]: a candidate after the first is kept where the mass before it is at most P. Scores [T, K], sorted."""
    return scores.cumsum(-1)[:, :-1]


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    return kept(candidates, top_p(candidates.weights.float(), numbers["threshold"]))


def _calibrate(request: Request, _layers: Sequence[float]) -> dict[str, Any]:
    return {"threshold": curve.at(request.quantity("xmoe"), request.budget)[0]}


RULE = TokenRule(
    "xmoe",
    _select,
    keep_all=lambda top_k, experts: {"threshold": EVERY},
    parameters={"threshold": Parameter("the cumulative score at which a token has enough", per="plan")},
    calibrate=_calibrate,
    needs=("xmoe",),
    whole=False,
    absolute=True,
    alone=True,
)
