"""Rules that keep a token's first candidates, as loops: see `cpu`.

Arrays are numpy's; scores are float32, as routers give them. Sums are taken as torch takes them on a CPU, so that what
is kept is what the reference keeps. NaN sorts before all else, as in `torch.sort(descending=True)`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from allocmoe.routing.kernels.loops import before, compiled

TOP_K, ALLOC_T, TOP_P, NAEE, ADAPMOE, THRESHOLD = range(6)
"""What decides how many of its first candidates a token keeps."""


@compiled
def ordered(weights: Any, ids: Any) -> tuple[Any, Any]:
    """Candidates [T, K] of every token heaviest first, ties as they came."""
    tokens, top = weights.shape
    sorted_weights, sorted_ids = np.empty_like(weights), np.empty_like(ids)
    for t in range(tokens):
        for j in range(top):
            weight, place = weights[t, j], j
            while place > 0 and before(weight, sorted_weights[t, place - 1]):
                sorted_weights[t, place] = sorted_weights[t, place - 1]
                sorted_ids[t, place] = sorted_ids[t, place - 1]
                place -= 1
            sorted_weights[t, place], sorted_ids[t, place] = weight, ids[t, j]
    return sorted_weights, sorted_ids


@compiled
def by_contribution(weights: Any, ids: Any, norms: Any) -> tuple[Any, Any, Any]:
    """Candidates [T, K] by weight times their expert's norm [N], highest first, ties as they came; and the products."""
    tokens, top = weights.shape
    worth, places = np.empty_like(weights), np.empty_like(ids)
    for t in range(tokens):
        for j in range(top):
            worth[t, j], places[t, j] = weights[t, j] * norms[ids[t, j]], j
    worth, places = ordered(worth, places)
    sorted_weights, sorted_ids = np.empty_like(weights), np.empty_like(ids)
    for t in range(tokens):
        for j in range(top):
            sorted_weights[t, j], sorted_ids[t, j] = weights[t, places[t, j]], ids[t, places[t, j]]
    return sorted_weights, sorted_ids, worth


@compiled
def how_many(weights: Any, valid: Any, rule: int, k: float, a: float, b: float) -> Any:
    """How many of its first candidates each token keeps, [T]; none for padding.

    Args:
        weights: [T, K], sorted.
        valid: bool [T], or of no length if all are real.
        rule: one of the above.
        k: k_l.
        a, b: k_base of Alloc-T; the threshold of others, and AdapMoE's h_l or k_base.
    """
    tokens = len(weights)
    real = np.ones(tokens, np.bool_) if len(valid) == 0 else valid
    if rule == ALLOC_T:
        return _alloc_t(weights, real, k, a)
    counts = np.zeros(tokens, np.int64)
    for t in range(tokens):
        if real[t]:
            if rule == TOP_K:
                counts[t] = int(k)
            elif rule == TOP_P:
                counts[t] = _top_p(weights[t], np.float32(a))
            elif rule == NAEE:
                counts[t] = _naee(weights[t], np.float32(a))
            elif rule == THRESHOLD:
                counts[t] = _at_least(weights[t], np.float32(a), int(b))
            else:
                counts[t] = _adapmoe(weights[t], np.float32(a), np.float32(b))
    return counts


@compiled
def _top_p(row: Any, threshold: Any) -> int:
    total, count = 0.0, 1
    for j in range(len(row) - 1):
        total += row[j]
        if not np.float32(total) <= threshold:
            break
        count += 1
    return count


@compiled
def _naee(row: Any, beta: Any) -> int:
    first, count = row[0], 1
    for j in range(1, len(row)):
        ratio = row[j] / max(first, np.finfo(np.float32).tiny) if first > 0 else np.float32(1)
        if not ratio >= beta:
            break
        count += 1
    return count


@compiled
def _at_least(row: Any, threshold: Any, k_base: int) -> int:
    count = min(k_base, len(row))
    while count < len(row) and not row[count] < threshold:
        count += 1
    return count


@compiled
def _adapmoe(row: Any, threshold: Any, fisher: Any) -> int:
    tail, count, tails = 0.0, 1, np.empty(len(row), np.float32)
    for j in range(len(row) - 1, -1, -1):
        tail += row[j]
        tails[j] = tail
    whole = tails[0] * tails[0] if tails[0] > 0 else np.float32(1)
    for j in range(1, len(row)):
        if not tails[j] * tails[j] * fisher > threshold * whole:
            break
        count += 1
    return count


@compiled
def _alloc_t(weights: Any, real: Any, k: float, k_base: float) -> Any:
    """The key of the budget's last pair by four rounds of counting; ties to the earlier token, then rank."""
    tokens, top = weights.shape
    base = min(int(k_base), math.floor(k))
    counts, rows = np.zeros(tokens, np.int64), 0
    for t in range(tokens):
        if real[t]:
            counts[t] = min(base, top)
            rows += 1
    left = math.floor(k * rows + 1e-6) - rows * base
    if left <= 0 or base >= top:
        return counts
    if left >= rows * (top - base):
        for t in range(tokens):
            counts[t] = top if real[t] else 0
        return counts
    keys = np.empty(rows * (top - base), np.uint32)
    bits, n = weights.view(np.uint32), 0
    for t in range(tokens):
        if real[t]:
            for j in range(base, top):
                bit = bits[t, j]
                if weights[t, j] != weights[t, j]:
                    bit = np.uint32(0xFFFFFFFF)
                elif weights[t, j] == 0:
                    bit = np.uint32(0x80000000)  # of either sign
                elif bit >> np.uint32(31):
                    bit = ~bit
                else:
                    bit = bit | np.uint32(0x80000000)
                keys[n] = bit
                n += 1
    found, rest = np.uint32(0), left
    for digit in range(4):
        shift = np.uint32(24 - 8 * digit)
        histogram = np.zeros(256, np.int64)
        for i in range(n):
            if digit == 0 or keys[i] >> np.uint32(shift + 8) == found:
                histogram[(keys[i] >> shift) & np.uint32(255)] += 1
        place = 255
        while histogram[place] < rest:
            rest -= histogram[place]
            place -= 1
        found = np.uint32((found << np.uint32(8)) | np.uint32(place))
    n = 0
    for t in range(tokens):
        if real[t]:
            for _ in range(base, top):
                if keys[n] > found:
                    counts[t] += 1
                elif keys[n] == found and rest > 0:
                    rest -= 1
                    counts[t] += 1
                n += 1
    return counts


@compiled
def cut(weights: Any, ids: Any, counts: Any, dropped: int) -> None:
    """Mark all but the first `counts` [T] candidates of every row as dropped, in place."""
    for t in range(len(counts)):
        for j in range(counts[t], weights.shape[1]):
            weights[t, j], ids[t, j] = 0, dropped


@compiled
def prefix(
    weights: Any, ids: Any, valid: Any, norms: Any, rule: int, k: float, a: float, b: float, dropped: int
) -> Any:
    """Weights and ids [T, K] under a rule that keeps first candidates, see `how_many`; no norms: by weight."""
    if len(norms):
        weights, ids, scores = by_contribution(weights, ids, norms)
    else:
        weights, ids = ordered(weights, ids)
        scores = weights
    cut(weights, ids, how_many(scores, valid, rule, k, a, b), dropped)
    return weights, ids


@compiled
def narrow(weights: Any, ids: Any, valid: Any, norms: Any, k: int, dropped: int) -> Any:
    """Weights and ids [T, k] of uniform top-k."""
    if len(norms):
        weights, ids, _ = by_contribution(weights, ids, norms)
    else:
        weights, ids = ordered(weights, ids)
    weights, ids = weights[:, :k].copy(), ids[:, :k].copy()
    for t in range(len(valid)):
        if not valid[t]:
            weights[t], ids[t] = 0, dropped
    return weights, ids
