"""Refill, the token rule of OEA (arXiv 2511.02237), over any base rule: more pairs on the experts that are read anyway.

With few tokens a layer's time follows the distinct experts that the pass touches. So a base rule decides which those
are, and each token then uses the best of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.errors import AllocMoEError
from allocmoe.routing import alloc_t, top_k
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request

SMALL: Mapping[str, Parameter] = {
    "pairs": Parameter("K', the pairs that a token may hold; above K counts as K", per="either", least=1, whole=True),
    "refill_tokens": Parameter("real tokens above which the base runs alone", per="plan", least=0, whole=True),
}
OPTIONS: Mapping[str, float] = {"pairs": 0, "refill_tokens": 64}
"""`pairs` 0 stands for the model's own K."""


def small(request: Request) -> dict[str, Any]:
    """The numbers of SMALL that a request asks for; AllocMoEError for more pairs than K."""
    pairs, most = int(request.options["pairs"]), request.spec.top_k
    if not 0 <= pairs <= most:
        raise AllocMoEError(f"pairs must be within 1..{most}, the model's K (0: all K), got {pairs}")
    return {"pairs": pairs or most, "refill_tokens": int(request.options["refill_tokens"])}


def alone(candidates: Candidates, numbers: Numbers) -> bool:
    """Whether the base runs alone, as far as the host can tell without waiting for the device."""
    import torch

    limit = numbers["refill_tokens"]
    return candidates.valid is None and not isinstance(limit, torch.Tensor) and candidates.ids.shape[-2] > limit


def real_tokens(candidates: Candidates) -> Any:
    """How many tokens of a pass are no padding: an int, or a tensor where only the device knows."""
    if candidates.valid is None:
        return candidates.ids.shape[-2]
    return candidates.valid.sum(-1, keepdim=True)[..., None]


def marked(candidates: Candidates, chosen: Selection) -> Tensor:
    """bool [..., T, N]: the kept pairs of the real tokens."""
    import torch

    assert candidates.logits is not None
    ids = chosen.ids.long().clamp(min=0)  # rows of padding may hold -1
    keep = torch.ones_like(ids, dtype=torch.bool) if chosen.keep is None else chosen.keep
    if candidates.valid is not None:
        keep = keep & candidates.valid[..., None]
    return torch.zeros_like(candidates.logits, dtype=torch.bool).scatter(-1, ids, keep)


def best_within(
    candidates: Candidates, scores: tuple[Tensor, Tensor], opened: Tensor, own: Tensor, most: float | Tensor
) -> Selection:
    """Every token's own pairs, and up to `most` pairs with them: its best among the opened experts.

    Args:
        candidates: of the pass.
        scores: selection scores and combine weights [..., T, N].
        opened: bool [..., 1, N], experts that any token of a pass may use.
        own: bool [..., T, N], pairs that stay whatever they score, at most K a token.
        most: pairs of a token; may be a tensor.

    Returns:
        [T, K], kept pairs first: a token's own, then by selection score, ties to the lower expert id. A pair that the
        router itself offered has the router's own weight.
    """
    import torch

    order, mass = scores
    mass = mass.to(candidates.weights.dtype).scatter(-1, candidates.ids.long().clamp(min=0), candidates.weights)
    worth = order.masked_fill(~opened, -math.inf).masked_fill(own, math.inf)
    worth, ids = worth.sort(dim=-1, descending=True, stable=True)
    top = candidates.ids.shape[-1]
    worth, ids = worth[..., :top], ids[..., :top]
    within = (torch.arange(top, device=ids.device) < most) & (worth > -math.inf)
    return Selection(mass.gather(-1, ids), ids.to(candidates.ids.dtype), within | (worth == math.inf))


def refilled(base: TokenRule, candidates: Candidates, numbers: Numbers) -> Selection:
    """The base's pairs, and each token's best within S, every expert that the base keeps for a real token of the pass.

    Where the base chooses by contributions, refill goes on by selection scores: what is computed anyway is best used as
    the model itself would.

    Own base pairs always stay, also above `pairs`. Padding opens no expert. A single token's S is its own base, so
    refill then changes nothing. In a pass of more than `refill_tokens` real tokens the base runs alone.

    What counts is the pass: where a server puts a piece of a prompt and decoding requests into one pass, all of its
    tokens count and all open experts, so a long piece makes the base run alone for the decoding requests too, and a
    short one lets them use the experts that it opens.
    """
    chosen = base.select(candidates, numbers)
    if alone(candidates, numbers):
        return chosen
    assert candidates.logits is not None
    own = marked(candidates, chosen)
    scores = candidates.scoring(candidates.logits, candidates.ids)
    most = numbers["pairs"] * (real_tokens(candidates) <= numbers["refill_tokens"])
    return best_within(candidates, scores, own.any(-2, keepdim=True), own, most)


def over(base: TokenRule, name: str) -> TokenRule:
    """Refill over a base rule, whose numbers and options it has besides its own."""

    def calibrate(request: Request, layers: Sequence[float]) -> dict[str, Any]:
        return {**base.calibrate(request, layers), **small(request)}

    return TokenRule(
        name,
        lambda candidates, numbers: refilled(base, candidates, numbers),
        keep_all=lambda top_k, experts: {**base.keep_all(top_k, experts), "pairs": top_k, "refill_tokens": 0},
        parameters={**base.parameters, **SMALL},
        calibrate=calibrate,
        needs=base.needs,
        options={**base.options, **OPTIONS},
        whole=base.whole,
        logits=True,
        many=True,
        by_scores=base.by_scores,
        bounded=False,
    )


RULE = over(top_k.RULE, "refill")
OVER_ALLOC_T = over(alloc_t.RULE, "alloc_t_refill")
