"""Prune: only some experts of a layer may be chosen; each token takes its K best among them.

It routes as a checkpoint without the other experts would: their rows of the router are gone, so scores are the softmax
over the experts that stay, and where the family renormalises its K weights, these K are. Which experts stay is a
ranking that was measured: SEER-MoE's soft counts (arXiv 2404.05089) or REAP's saliency (arXiv 2510.13999).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.errors import AllocMoEError, shown
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request

RANKINGS = ("soft_counts", "saliency")
ROUNDING = 1 / 64
"""A model's weights are its scores times a factor, DeepSeek's routed scaling factor or 1: nearer to 1 than bfloat16
can tell, it is 1."""


def prune(logits: Tensor, stays: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The softmax scores over the experts that stay, the K best of each token.

    Args:
        logits: [T, N] of the router.
        stays: bool [N], at least K of them true.
        top_k: K.

    Returns:
        Scores [T, K] in float32 and expert ids, best first, ties to the lower id on every device.
    """
    import torch

    left = logits.float().masked_fill(~stays, -torch.inf)
    ids = left.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    return left.softmax(-1).gather(-1, ids), ids


def _select(candidates: Candidates, numbers: Numbers) -> Selection:
    import torch

    if candidates.logits is None:
        raise AllocMoEError("prune needs the router's logits: this engine does not give them")
    weights, ids = prune(candidates.logits, numbers["kept"] > 0, candidates.ids.shape[1])
    if candidates.scoring.renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
        own: Tensor | float = 1.0
    else:
        scores = candidates.logits.float().softmax(-1)
        own = scores.gather(-1, candidates.ids.long().clamp(min=0)).sum(-1, keepdim=True)  # padding may hold -1
    factor = candidates.weights.float().sum(-1, keepdim=True) / own
    weights = weights * torch.where((factor - 1).abs() < ROUNDING, 1.0, factor)
    return Selection(weights.to(candidates.weights.dtype), ids.to(candidates.ids.dtype))


def _calibrate(request: Request, layers: Sequence[float]) -> dict[str, Any]:
    """Which experts stay: of a layer with k_l the `k_l N / K` that rank highest, ties to the lower id."""
    by, spec = request.options["rank_by"], request.spec
    if by not in RANKINGS:
        raise AllocMoEError(f"experts cannot be ranked by {shown(by)}: expected one of {', '.join(RANKINGS)}")
    kept = []
    for k, row in zip(layers, request.quantity(by), strict=True):
        best = sorted(range(spec.experts), key=lambda expert: (-row[expert], expert))
        stay = set(best[: round(k * spec.experts / spec.top_k)])
        kept.append([int(expert in stay) for expert in range(spec.experts)])
    return {"kept": kept}


def _objection(numbers: Mapping[str, Any], top_k: int, _experts: int) -> str:
    if not set(numbers["kept"]) <= {0, 1}:
        return "kept must say 1 for an expert that stays and 0 for one that is gone"
    found = int(sum(numbers["kept"]))
    return "" if found >= top_k else f"prune keeps {found} experts of which a token needs {top_k}"


RULE = TokenRule(
    "prune",
    _select,
    keep_all=lambda top_k, experts: {"kept": (1,) * experts},
    parameters={"kept": Parameter("1 for every expert that stays, else 0", per="expert", least=0, whole=True)},
    calibrate=_calibrate,
    objection=_objection,
    whole=False,
    ragged=False,
    logits=True,
    scorings=("softmax",),
    alone=True,
)
