"""A layer's token rule in one launch on a CUDA device. The torch rules are the reference.

Import this only where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from allocmoe.routing import alloc_t, top_k
from allocmoe.routing.kernels.cuda_prefix import alloc_t_kernel, alloc_t_round_kernel, alone_kernel
from allocmoe.routing.kernels.cuda_within import prune_kernel, within_kernel
from allocmoe.routing.prune import ROUNDING
from allocmoe.routing.rule import TokenRule
from allocmoe.routing.scores import Scoring

MOST_K, MOST_EXPERTS = 16, 512
WHOLE = 4096
"""Candidates, with K rounded up to a power of two, that one program holds."""
PIECE = 1024
"""Candidates of a program that is one of many."""
LEAST = 128
"""Candidates or experts of a program: as many as it has threads, so that no histogram counts what two threads hold."""
TILE = 1024
"""Logits that cap looks at together, times groups of experts where a router opens some of them."""
ALONE = {"top_p": "mass", "xmoe": "mass", "naee": "naee", "adapmoe": "adapmoe"}
"""Rules with a threshold that decide each token by itself, and what the kernel calls their comparison."""
WITHIN = {"refill": top_k.RULE, "cap": top_k.RULE, "alloc_t_refill": alloc_t.RULE}
"""Rules that look beyond a router's K, and the base of each."""
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

    Nothing waits for the device, and no shape depends on a value there. A number that is a float costs a launch more.

    Args:
        rule, numbers: of the layer; numbers are floats, or float64 tensors on the device ("kept" is [N]).
        scoring: of the model's layer.
        weights, ids: [T, K] candidates in any order; float32, bfloat16 or float16, and int32 or int64.
        valid: bool [T], False for padding; None if there is none.
        logits: [T, N] for rules that read them.
        dropped: id of a dropped pair.

    Returns:
        Weights and ids [T, K]; [T, k] for top-k whose k is a float. None for what no kernel covers: other dtypes,
        more than 16 candidates or 512 experts, refill over Alloc-T in a pass of more than 4,096 candidates, a rule that
        is not known here.
    """
    if not covered(weights, ids, logits if rule.logits else None):
        return None
    weights, ids = weights.contiguous(), ids.contiguous()
    if rule.name == "top_k":
        return _top_k(numbers["k"], weights, ids, valid, dropped)
    if rule.name == "alloc_t":
        return _alloc_t(numbers, weights, ids, valid, dropped)
    if rule.name in ALONE:
        return _alone(ALONE[rule.name], numbers, weights, ids, valid, dropped)
    if logits is None:
        return None
    if rule.name == "prune":
        return _prune(numbers, scoring, weights, ids, valid, logits.contiguous(), dropped)
    if rule.name not in WITHIN:
        return None
    limit = numbers["refill_tokens"]
    if valid is None and not isinstance(limit, Tensor) and len(ids) > limit:
        return fused(WITHIN[rule.name], numbers, scoring, weights, ids, valid, None, dropped)
    if rule.name == "alloc_t_refill" and len(ids) * _power(ids.shape[1]) > WHOLE:
        return None
    return _within(rule.name, numbers, scoring, weights, ids, valid, logits.contiguous(), dropped)


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


def _top_k(k: Any, weights: Tensor, ids: Tensor, valid: Tensor | None, dropped: int) -> tuple[Tensor, Tensor]:
    if isinstance(k, Tensor):
        return _alone("top_k", {"threshold": k}, weights, ids, valid, dropped)
    if valid is None and k == weights.shape[1]:
        return weights, ids
    return _alone("all", {"threshold": weights}, weights, ids, valid, dropped, width=int(k))


def _alone(
    comparison: str,
    numbers: Mapping[str, Any],
    weights: Tensor,
    ids: Tensor,
    valid: Tensor | None,
    dropped: int,
    width: int | None = None,
) -> tuple[Tensor, Tensor]:
    T, K = weights.shape
    width = K if width is None else width
    out = weights.new_empty(T, width), ids.new_empty(T, width)
    if not out[0].numel():
        return out
    first = numbers["threshold"] if comparison == "all" else _number(numbers["threshold"], weights)
    second = _number(numbers["fisher"], weights) if comparison == "adapmoe" else first
    KP = _power(K)
    block = _block(T, KP, PIECE)
    alone_kernel[(-(-T // block),)](
        weights, ids, *_mask(valid, weights), first, second, *out, T, K, KP, block, comparison, width,
        valid is not None, dropped, **EXACT,
    )  # fmt: skip
    return out


def _alloc_t(
    numbers: Mapping[str, Any], weights: Tensor, ids: Tensor, valid: Tensor | None, dropped: int
) -> tuple[Tensor, Tensor]:
    T, K = weights.shape
    KP = _power(K)
    out = torch.empty_like(weights), torch.empty_like(ids)
    inputs = (weights, ids, *_mask(valid, weights), _number(numbers["k"], weights), _number(numbers["k_base"], weights))
    if not T:
        return out
    if T * KP <= WHOLE:
        block = _block(T, KP, WHOLE)
        alloc_t_kernel[(1,)](
            *inputs, *out, T, K, KP, block, valid is not None, dropped, num_warps=_warps(block * KP), **EXACT
        )
        return out
    block = WHOLE // KP
    blocks = -(-T // block)
    counts = torch.empty(4, blocks, 256, dtype=torch.int32, device=weights.device)
    for turn in range(5):
        alloc_t_round_kernel[(blocks,)](
            *inputs, counts, *out, T, blocks, K, KP, block, turn, valid is not None, dropped, num_warps=8, **EXACT
        )
    return out


def _within(
    name: str,
    numbers: Mapping[str, Any],
    scoring: Scoring,
    weights: Tensor,
    ids: Tensor,
    valid: Tensor | None,
    logits: Tensor,
    dropped: int,
) -> tuple[Tensor, Tensor]:
    (T, K), N = weights.shape, logits.shape[1]
    KP, NP = _power(K), max(LEAST, _power(N))
    tile = NP * (_power(scoring.groups) if scoring.open_groups < scoring.groups else 1)
    out = torch.empty_like(weights), torch.empty_like(ids)
    if not T:
        return out
    k = _number(numbers["k"], weights)
    within_kernel[(T,)](
        weights, ids, *_mask(valid, weights), logits, logits if scoring.bias is None else scoring.bias.contiguous(),
        k, _number(numbers["k_base"], weights) if name == "alloc_t_refill" else k, _number(numbers["pairs"], weights),
        _number(numbers["refill_tokens"], weights), _number(numbers["experts"], weights) if name == "cap" else k, *out,
        T, N, NP, K, KP, _block(T, KP, WHOLE if name == "alloc_t_refill" else PIECE), max(1, TILE // tile), name,
        scoring.function, scoring.renormalise, scoring.scale, scoring.groups, _power(scoring.groups),
        scoring.open_groups, scoring.bias is not None, valid is not None, dropped, **EXACT,
    )  # fmt: skip
    return out


def _prune(
    numbers: Mapping[str, Any],
    scoring: Scoring,
    weights: Tensor,
    ids: Tensor,
    valid: Tensor | None,
    logits: Tensor,
    dropped: int,
) -> tuple[Tensor, Tensor]:
    (T, K), N = weights.shape, logits.shape[1]
    out = torch.empty_like(weights), torch.empty_like(ids)
    if T:
        stays = torch.as_tensor(numbers["kept"], dtype=torch.float64, device=weights.device)
        prune_kernel[(T,)](
            weights, ids, *_mask(valid, weights), logits, stays, *out, T, N, max(LEAST, _power(N)), K, _power(K),
            scoring.renormalise, ROUNDING, valid is not None, dropped, **EXACT,
        )  # fmt: skip
    return out


def _number(value: Any, like: Tensor) -> Tensor:
    """In device memory and float64. A float is filled in by the device: a copy could not be captured."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64)
    return torch.full((), value, dtype=torch.float64, device=like.device)


def _mask(valid: Tensor | None, stand_in: Tensor) -> tuple[Tensor]:
    """The kernels' argument, which nothing reads where there is no padding."""
    return (stand_in if valid is None else valid.contiguous(),)


def _power(count: int) -> int:
    """The power of two that is not below it."""
    return 1 << max(0, count - 1).bit_length()


def _block(tokens: int, KP: int, most: int) -> int:
    """Tokens of a program that holds at most so many candidates."""
    return max(min(_power(tokens), most // KP), LEAST // KP)


def _warps(pairs: int) -> int:
    return 4 if pairs <= PIECE else 8
