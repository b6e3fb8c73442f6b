"""A layer's token rule in one launch on a CUDA device. The torch rules are the reference.

Import this only where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from allocmoe.routing import alloc_t, top_k
from allocmoe.routing.kernels.cuda_prefix import alloc_t_kernel, alloc_t_round_kernel, alone_kernel
from allocmoe.routing.kernels.cuda_within import prune_kernel, within_kernel
from allocmoe.routing.prune import ROUNDING
from allocmoe.routing.rule import Candidates, Numbers, TokenRule
from allocmoe.routing.scores import Scoring

MOST_K, MOST_EXPERTS = 16, 512
WHOLE = 4096
"""Candidates, with K rounded up to a power of two, that one program holds. Alloc-T over more takes five launches."""
PIECE = 1024
"""Candidates of a program that is one of many."""
LEAST = 128
"""Candidates or experts of a program: as many as it has threads, so that no histogram counts what two threads hold."""
TILE = 1024
"""Logits that cap looks at together, times groups of experts where a router opens some of them."""
COMPARISONS = {"top_p": "mass", "xmoe": "mass", "naee": "naee", "adapmoe": "adapmoe", "threshold": "score"}
"""Rules with a threshold that decide each token by itself, and what the kernel calls the comparison."""
BASES = {"refill": top_k.RULE, "cap": top_k.RULE, "alloc_t_refill": alloc_t.RULE}
"""Rules that look beyond a router's K in small passes, and what runs alone in others."""
EXACT: dict[str, Any] = {"enable_fp_fusion": False}
"""A fused multiply-add rounds once where torch rounds twice."""


def fused(
    rule: TokenRule,
    numbers: Mapping[str, Any],
    scoring: Scoring,
    weights: Tensor,
    ids: Tensor,
    valid: Tensor | None,
    logits: Tensor | None,
    dropped: int,
) -> tuple[Tensor, Tensor] | None:
    """What `PlannedLayer` gives with reference "original": kept pairs first, others of weight 0 and id `dropped`.

    Nothing waits for the device, and no shape depends on a value there. A number that is a float costs a launch more,
    the first time that it is met.

    Args:
        rule, numbers: of the layer; numbers are floats, or float64 tensors on the device ("kept" is [N]).
        scoring: of the model's layer.
        weights, ids: [T, K] candidates in any order; float32, bfloat16 or float16, and int32 or int64.
        valid: bool [T], False for padding; None if there is none.
        logits: [T, N] for rules that read them.
        dropped: id of a dropped pair.

    Returns:
        Weights and ids [T, K]; [T, k] for top-k whose k is a float, also where it runs alone for refill or cap. None
        for what no kernel covers: other dtypes, more than 16 candidates or 512 experts, a rule that is not known here.
    """
    if not covered(weights, ids, logits if rule.logits else None):
        return None
    mask, scores = (None if tensor is None else tensor.contiguous() for tensor in (valid, logits))
    candidates = Candidates(weights.contiguous(), ids.contiguous(), mask, scores, scoring)
    if rule.name == "top_k":
        return _top_k(candidates, numbers, dropped)
    if rule.name == "alloc_t":
        return _alloc_t(candidates, numbers, dropped)
    if rule.name in COMPARISONS:
        return _alone(COMPARISONS[rule.name], candidates, numbers, dropped)
    if rule.name == "prune" and logits is not None:
        return _prune(candidates, numbers, dropped)
    if rule.name not in BASES or logits is None:
        return None
    limit = numbers["refill_tokens"]
    if valid is None and not isinstance(limit, Tensor) and len(ids) > limit:
        return fused(BASES[rule.name], numbers, scoring, weights, ids, valid, None, dropped)
    return _within(rule.name, candidates, numbers, dropped)


def covered(weights: Tensor, ids: Tensor, logits: Tensor | None) -> bool:
    """Whether there are kernels for such tensors."""
    floats = (torch.float32, torch.bfloat16, torch.float16)
    return (
        weights.ndim == 2
        and 1 <= weights.shape[1] <= MOST_K
        and weights.dtype in floats
        and ids.dtype in (torch.int32, torch.int64)
        and (logits is None or (logits.dtype in floats and logits.shape[1] <= MOST_EXPERTS))
    )


def _top_k(offered: Candidates, numbers: Numbers, dropped: int) -> tuple[Tensor, Tensor]:
    k, K = numbers["k"], offered.weights.shape[1]
    if isinstance(k, Tensor):
        return _alone("top_k", offered, {**numbers, "threshold": k}, dropped)
    if offered.valid is None and k == K:
        return offered.weights, offered.ids
    return _alone("all", offered, numbers, dropped, width=int(k))


def _alone(
    comparison: str, offered: Candidates, numbers: Numbers, dropped: int, width: int | None = None
) -> tuple[Tensor, Tensor]:
    weights = offered.weights
    T, K = weights.shape
    width = K if width is None else width
    out = weights.new_empty(T, width), offered.ids.new_empty(T, width)
    if not out[0].numel():
        return out
    first = weights if comparison == "all" else _number(numbers["threshold"], weights)
    own = {"adapmoe": "fisher", "score": "k_base"}.get(comparison)
    second = _number(numbers[own], weights) if own else first
    KP = _power(K)
    block = _block(T, KP, PIECE)
    alone_kernel[(-(-T // block),)](
        *_common(offered), _norms(offered, numbers), first, second, *out, T, K, KP, block, comparison, width,
        "norms" in numbers, offered.valid is not None, dropped, **EXACT,
    )  # fmt: skip
    return out


def _alloc_t(offered: Candidates, numbers: Numbers, dropped: int) -> tuple[Tensor, Tensor]:
    weights = offered.weights
    T, K = weights.shape
    out = torch.empty_like(weights), torch.empty_like(offered.ids)
    if not T:
        return out
    KP = _power(K)
    block = _block(T, KP, WHOLE)
    blocks = -(-T // block)
    known = (
        *_common(offered), _norms(offered, numbers), _number(numbers["k"], weights), _number(numbers["k_base"], weights)
    )  # fmt: skip
    chosen = "norms" in numbers, offered.valid is not None, dropped
    options = {"num_warps": 4 if block * KP <= PIECE else 8, **EXACT}
    if blocks == 1:
        alloc_t_kernel[(1,)](*known, *out, T, K, KP, block, *chosen, **options)
        return out
    counts = torch.empty(4, blocks, 256, dtype=torch.int32, device=weights.device)
    for turn in range(5):
        alloc_t_round_kernel[(blocks,)](*known, counts, *out, T, blocks, K, KP, block, turn, *chosen, **options)
    return out


def _within(name: str, offered: Candidates, numbers: Numbers, dropped: int) -> tuple[Tensor, Tensor]:
    weights, ids, logits, scoring = offered.weights, offered.ids, offered.logits, offered.scoring
    assert logits is not None
    (T, K), N = weights.shape, logits.shape[1]
    KP, NP = _power(K), max(LEAST, _power(N))
    out = torch.empty_like(weights), torch.empty_like(ids)
    if not T:
        return out
    base, given = "top_k", ids
    if name == "alloc_t_refill":
        base = "alloc_t"
        if _block(T, KP, WHOLE) < T:
            base, given = "given", _alloc_t(offered, numbers, dropped)[1]
    k, pairs, limit = (_number(numbers[own], weights) for own in ("k", "pairs", "refill_tokens"))
    k_base, cap = (_number(numbers[own], weights) if own in numbers else k for own in ("k_base", "experts"))
    bias = logits if scoring.bias is None else scoring.bias.contiguous()
    block = _block(T, KP, WHOLE if base == "alloc_t" else PIECE)
    rows = TILE // (NP * _power(scoring.groups) if scoring.open_groups < scoring.groups else NP)
    within_kernel[(T,)](
        *_common(offered), _norms(offered, numbers), given, logits, bias, k, k_base, pairs, limit, cap, *out,
        T, N, NP, K, KP, block, max(1, rows), base, name == "cap", scoring.function, scoring.renormalise, scoring.scale,
        scoring.groups, _power(scoring.groups), scoring.open_groups, scoring.bias is not None, "norms" in numbers,
        offered.valid is not None, dropped,
        **EXACT,
    )  # fmt: skip
    return out


def _prune(offered: Candidates, numbers: Numbers, dropped: int) -> tuple[Tensor, Tensor]:
    weights, logits = offered.weights, offered.logits
    assert logits is not None
    (T, K), N = weights.shape, logits.shape[1]
    out = torch.empty_like(weights), torch.empty_like(offered.ids)
    if T:
        stays = torch.as_tensor(numbers["kept"], dtype=torch.float64, device=weights.device)
        prune_kernel[(T,)](
            *_common(offered), logits, stays, *out, T, N, max(LEAST, _power(N)), K, _power(K),
            offered.scoring.renormalise, ROUNDING, offered.valid is not None, dropped, **EXACT,
        )  # fmt: skip
    return out


def _common(offered: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels' first arguments. Where there is no padding nothing reads the third."""
    return offered.weights, offered.ids, offered.weights if offered.valid is None else offered.valid


def _norms(offered: Candidates, numbers: Numbers) -> Tensor:
    """Norms [N] in float32; where candidates are chosen by weight nothing reads them."""
    found: Tensor = numbers.get("norms", offered.weights)
    return found


def _number(value: Any, like: Tensor) -> Tensor:
    """In device memory and float64. While a graph is captured nothing runs, so a float that was not met before is
    filled in by the graph and not kept."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64)
    if like.is_cuda and torch.cuda.is_current_stream_capturing():
        return _filled.__wrapped__(float(value), like.device)
    return _filled(float(value), like.device)


@lru_cache(4096)
def _filled(value: float, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=torch.float64, device=device)


def _power(count: int) -> int:
    """The power of two that is not below it."""
    return 1 << max(0, count - 1).bit_length()


def _block(tokens: int, KP: int, most: int) -> int:
    """Tokens of a program that holds at most so many candidates."""
    return max(min(_power(tokens), most // KP), LEAST // KP)
