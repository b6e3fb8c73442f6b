"""Cap: a pass may touch C experts, those with the most score in it (XShare, arXiv 2602.07265)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.errors import AllocMoEError
from allocmoe.routing import top_k
from allocmoe.routing.refill import OPTIONS, SMALL, alone, best_within, marked, real_tokens, small
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request


def expected_distinct(experts: int, k: float, tokens: int) -> float:
    """`E[D] = N (1 - (1 - k/N)^T)`: distinct experts if T tokens choose k of N each, evenly and independently."""
    return experts * (1 - (1 - k / experts) ** tokens)


def capped(scores: tuple[Tensor, Tensor], valid: Tensor | None, experts: float | Tensor) -> Tensor:
    """Which experts [..., 1, N] a pass may touch: every real token's first, and those of most summed weight, C in all.

    Args:
        scores: selection scores (-inf: not allowed) and combine weights, both [..., T, N].
        valid: bool [..., T], False for padding, which neither opens nor adds; None if there is none.
        experts: C; may be a scalar tensor. More firsts than C are all opened.

    Sums are taken in float64. Ties, of sums and of a token's first, go to the lower expert id.
    """
    import torch

    order, mass = scores
    mass = mass.masked_fill(order == -math.inf, 0.0)
    first = torch.zeros_like(order, dtype=torch.bool).scatter(
        -1, order.sort(dim=-1, descending=True, stable=True).indices[..., :1], True
    )
    if valid is not None:
        mass, first = mass.masked_fill(~valid[..., None], 0.0), first & valid[..., None]
    opened = first.any(-2, keepdim=True)
    sums = mass.sum(-2, keepdim=True, dtype=torch.float64).masked_fill(opened, math.inf)
    ranked = sums.sort(dim=-1, descending=True, stable=True).indices
    among = (torch.arange(ranked.shape[-1], device=ranked.device) < experts).expand(ranked.shape)
    return opened | torch.zeros_like(opened).scatter(-1, ranked, among)


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    """Each token's best `pairs` within the cap; in a pass of more than `refill_tokens` real tokens, top-k_l alone.

    As with refill it is the pass that counts: the tokens of a prompt's piece and of the requests that decode beside
    it are one sum and share one cap, or are together too many for it.
    """
    base = top_k.RULE.select(candidates, numbers)
    if alone(candidates, numbers):
        return base
    assert candidates.logits is not None
    real, limit = real_tokens(candidates), numbers["refill_tokens"]
    scores = candidates.scoring(candidates.logits, candidates.ids)
    opened = capped(scores, candidates.valid, numbers["experts"])
    own, most = marked(candidates, base) & (real > limit), numbers["pairs"] * (real <= limit)
    return best_within(candidates, scores, opened, own, most)


def _calibrate(request: Request, layers: Sequence[float]) -> dict[str, Any]:
    """C_l: what uniform top-k_l touches on average in a batch of that size, if routing were even."""
    batch = int(request.options["batch"])
    if batch < 1:
        raise AllocMoEError(f"batch must be at least 1 token, got {batch}")
    n = request.spec.experts
    return {"experts": [math.floor(expected_distinct(n, k, batch) + 0.5) for k in layers], **small(request)}


RULE = TokenRule(
    "cap",
    _select,
    keep_all=lambda top_k, experts: {"experts": experts, "pairs": top_k, "refill_tokens": 0},
    parameters={"experts": Parameter("C, the experts that a pass may touch", least=1, whole=True), **SMALL},
    calibrate=_calibrate,
    options={**OPTIONS, "batch": 8},
    logits=True,
    many=True,
)
