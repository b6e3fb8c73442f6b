"""Threshold Alloc-T: keep what scores at least the layer's threshold. Causal, and deaf to the rest of the batch.

Alloc-T keeps the strongest scores of a pass, so where its cut lies depends on every token in it. Here the cut is a
number of the layer, the one that keeps k_l pairs a token on calibration text. A token is decided by itself: what a
request gets does not depend on its neighbours, and the budget holds in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule, kept

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request

BASE = 1
"""Experts that every token keeps while thresholds are calibrated."""


def at_least(scores: Tensor, threshold: float | Tensor, k_base: int | Tensor = BASE) -> Tensor:
    """Keep every token's top `k_base`, and what scores `threshold` or more.

    Args:
        scores: [T, K], sorted descending per row.

    Returns:
        bool [T, K].
    """
    import torch

    first = torch.arange(scores.shape[1], device=scores.device) < k_base
    return first | ~(scores < threshold)  # a score that is no number stays visible


def threshold_for(scores: Tensor, k: float) -> float:
    """The threshold under which `at_least` keeps k experts per token on these scores, in closed form.

    The smallest of the `(k - 1) T` strongest scores after each token's first; ties with it are kept too.
    """
    rest = scores[:, BASE:].flatten().sort(descending=True).values
    count = round((k - BASE) * len(scores))
    if count <= 0:
        return 3e38
    return float(rest[min(count, len(rest)) - 1])


def steps(top_k: int) -> list[float]:
    """The mean numbers of experts at which thresholds are calibrated: 1 to K by halves."""
    return [k / 2 for k in range(2, 2 * top_k + 1)]


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    return kept(candidates, at_least(candidates.scores, numbers["threshold"], numbers["k_base"]))


def _calibrate(request: Request, layers: Sequence[float]) -> dict[str, Any]:
    """Between two steps thresholds lie on a line; below the first only each token's first expert is kept."""
    (name,) = RULE.needs_of(request.options)
    table = np.array(request.quantity(name))
    known = steps(request.spec.top_k)
    found = [float(np.interp(k, known[1:], table[1:, layer])) if k > 1 else 3e38 for layer, k in enumerate(layers)]
    return {"threshold": found, "k_base": BASE}


RULE = TokenRule(
    "threshold",
    _select,
    keep_all=lambda top_k, experts: {"threshold": -1.0, "k_base": BASE},
    parameters={
        "threshold": Parameter("the score from which on an expert is kept"),
        "k_base": Parameter("experts that every token keeps", per="plan", least=0, whole=True),
    },
    calibrate=_calibrate,
    needs=("score_threshold",),
    instead=("contribution_threshold",),
    whole=False,
    absolute=True,
    alone=True,
    by_scores=True,
)
