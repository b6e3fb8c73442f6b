"""Rules that look beyond the router's K candidates, as loops: see `cpu`.

Scores are float32. Softmax and sigmoid may differ from torch's in the last place; what is chosen goes by the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allocmoe.routing.kernels.cpu_prefix import by_contribution, how_many, ordered
from allocmoe.routing.kernels.loops import before, compiled

SOFTMAX, SIGMOID = range(2)


@compiled
def total(row: Any) -> float:
    """A sum of float32 in float64."""
    found = 0.0
    for value in row:
        found += value
    return found


@compiled
def scored(logits: Any, ids: Any, function: int, renormalise: bool, scale: float) -> Any:
    """Combine weights [T, N] that experts have if chosen, as `routing.scores.Scoring` makes them of logits [T, N]."""
    mass = np.empty_like(logits)
    for t in range(len(logits)):
        row = logits[t]
        if function == SOFTMAX:
            mass[t] = np.exp(row - row.max())
            mass[t] /= np.float32(total(mass[t]))
        else:
            mass[t] = 1 / (1 + np.exp(-row))
        if renormalise:
            own = 0.0
            for j in range(ids.shape[1]):
                own += mass[t, max(ids[t, j], 0)]
            mass[t] /= np.float32(own)
        mass[t] *= np.float32(scale)
    return mass


@compiled
def refilled(
    weights: Any, ids: Any, valid: Any, norms: Any, order: Any, mass: Any, rule: int, k: float, k_base: float,
    pairs: int, dropped: int,
) -> Any:  # fmt: skip
    """Weights and ids [T, K] of a small pass: a base rule's pairs, and every token's best among the experts of those.

    `order` [T, N] is what experts are chosen by, -inf where a token may not use one; `mass` what they then weigh. For
    norms see `cpu_prefix.prefix`.
    """
    if len(norms):
        weights, ids, scores = by_contribution(weights, ids, norms)
    else:
        weights, ids = ordered(weights, ids)
        scores = weights
    counts = how_many(scores, valid, rule, k, k_base, 0.0)
    opened = np.zeros(order.shape[1], np.bool_)
    for t in range(len(counts)):
        for j in range(counts[t]):
            opened[ids[t, j]] = True
    return _within(weights, ids, valid, order, mass, counts, opened, pairs, dropped)


@compiled
def capped(
    weights: Any, ids: Any, valid: Any, order: Any, mass: Any, experts: int, pairs: int, dropped: int
) -> Any:  # fmt: skip
    """Weights and ids [T, K] of a small pass that may touch so many experts, see `routing.cap`."""
    tokens, n = order.shape
    opened, sums = np.zeros(n, np.bool_), np.zeros(n)
    for t in range(tokens):
        if len(valid) and not valid[t]:
            continue
        first = 0
        for e in range(n):
            if before(order[t, e], order[t, first]):
                first = e
            if order[t, e] > -np.inf:
                sums[e] += mass[t, e]
        opened[first] = True
    left = experts - opened.sum()
    while left > 0:
        best = -1
        for e in range(n):
            if not opened[e] and (best < 0 or before(sums[e], sums[best])):
                best = e
        if best < 0:
            break
        opened[best] = True
        left -= 1
    return _within(weights, ids, valid, order, mass, np.zeros(tokens, np.int64), opened, pairs, dropped)


@compiled
def _within(
    weights: Any, ids: Any, valid: Any, order: Any, mass: Any, counts: Any, opened: Any, pairs: int, dropped: int
) -> Any:  # fmt: skip
    """A token's first `counts` candidates by expert, then its best opened experts up to `pairs`, ties to the lower."""
    tokens, top = weights.shape
    out_weights, out_ids = np.zeros_like(weights), np.full_like(ids, dropped)
    taken = np.zeros(order.shape[1], np.bool_)
    for t in range(tokens):
        if len(valid) and not valid[t]:
            continue
        taken[:] = False
        for j in range(counts[t]):
            taken[ids[t, j]] = True
        n = 0
        for e in range(len(taken)):
            if taken[e]:
                out_ids[t, n] = e
                n += 1
        while n < min(pairs, top):
            best = -1
            for e in range(len(taken)):
                if opened[e] and not taken[e] and order[t, e] > -np.inf and (
                    best < 0 or order[t, e] > order[t, best]
                ):  # fmt: skip
                    best = e
            if best < 0:
                break
            taken[best], out_ids[t, n] = True, best
            n += 1
        for j in range(n):
            weight = mass[t, out_ids[t, j]]
            for i in range(top):
                if ids[t, i] == out_ids[t, j]:
                    weight = weights[t, i]
            out_weights[t, j] = weight
    return out_weights, out_ids


@compiled
def pruned(
    weights: Any, ids: Any, valid: Any, logits: Any, stays: Any, renormalise: bool, near: float, dropped: int
) -> Any:
    """Weights and ids [T, K]: the K best of the experts that stay (bool [N]), see `routing.prune`.

    Weights are scaled as the model scales its own, unless by a factor as near to 1 as `near`.
    """
    tokens, top = weights.shape
    out_weights, out_ids = np.zeros_like(weights), np.full_like(ids, dropped)
    for t in range(tokens):
        if len(valid) and not valid[t]:
            continue
        row = logits[t]
        scores = np.exp(row - row.max())
        scores /= np.float32(total(scores))
        own = 0.0
        for j in range(top):
            own += scores[ids[t, j]]
        left = stays.copy()
        for j in range(top):
            best = -1
            for e in range(len(left)):
                if left[e] and (best < 0 or before(row[e], row[best])):
                    best = e
            left[best], out_ids[t, j] = False, best
        highest, mass = row[out_ids[t, 0]], 0.0
        for e in range(len(stays)):
            if stays[e]:
                mass += np.exp(row[e] - highest)
        kept = 0.0
        for j in range(top):
            out_weights[t, j] = np.exp(row[out_ids[t, j]] - highest) / np.float32(mass)
            kept += out_weights[t, j]
        factor = total(weights[t])
        if renormalise:
            out_weights[t] /= np.float32(kept)
        else:
            factor /= own
        if abs(factor - 1) >= near:
            out_weights[t] *= np.float32(factor)
    return out_weights, out_ids
