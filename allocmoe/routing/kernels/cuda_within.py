"""Triton kernels of the rules that read the logits of all N experts. One program a token.

A program works out anew what the whole pass decides, which is little in the small passes that these rules are for, and
then its own token's best K pairs by K maxima over [NP] places: a place is an expert's key, and under it its id, so that
ties go to the lower id. NP is N rounded up to a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from allocmoe.routing.kernels.cuda_parts import alloc_t_keep, cut, ordered, ranked, real_rows, real_tokens

OWN: tl.constexpr = tl.constexpr(0xFFFFFFFF)  # the key of a pair that stays whatever it scores


@triton.jit
def exp(x):
    """e^x in float32 for x <= 0, to about two units in the last place; tl.exp is worse far from 0."""
    near = tl.where(x < -87.0, -87.0, x)
    n = tl.floor(near * 1.4426950408889634 + 0.5)
    rest = (near - n * 0.693359375) + n * 2.12194440e-4  # ln 2 in two parts, the first of which multiplies exactly
    power = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < -87.0, 0.0, tl.exp2(rest * 1.4426950408889634) * power)


@triton.jit
def softmax(x, inside):
    """Of each row of logits [B, NP] over those that are inside; 0 for others."""
    x = tl.where(inside, x, float("-inf"))
    e = tl.where(inside, exp(x - tl.max(x, 1)[:, None]), 0.0)
    return e / tl.sum(e, 1)[:, None]


@triton.jit
def usable(chosen, n, N: tl.constexpr, GROUPS: tl.constexpr, GP: tl.constexpr, OPEN: tl.constexpr,
           HAS_BIAS: tl.constexpr):  # fmt: skip
    """bool [B, NP]: experts of the OPEN best groups, by their best score, or with a bias by the sum of their best two.

    Ties go to the earlier group.
    """
    g = tl.arange(0, GP)
    mine = (((n // (N // GROUPS))[None, :] == g[:, None]) & (n < N)[None, :])[None, :, :]
    parts = tl.where(mine, chosen[:, None, :], float("-inf"))
    worth = tl.max(parts, 2)
    if HAS_BIAS:
        second = tl.where(n[None, None, :] == tl.argmax(parts, 2)[:, :, None], float("-inf"), parts)
        worth = worth + tl.max(second, 2)
    keys = tl.where((g < GROUPS)[None, :], ordered(worth), 0).to(tl.uint32)
    other, own = keys[:, None, :], keys[:, :, None]
    before = (other > own) | ((other == own) & (g[None, :] < g[:, None])[None, :, :])
    opened = tl.sum(before.to(tl.int32), 2) < OPEN
    return tl.max((mine & opened[:, :, None]).to(tl.int32), 1) > 0


@triton.jit
def member(ids, t, n, T, K: tl.constexpr):
    """bool [B, NP]: the router's own K."""
    found = (n < 0)[None, :] & (t < 0)
    for i in tl.static_range(K):
        found = found | (n[None, :] == tl.load(ids + t * K + i, mask=t < T, other=0).to(tl.int32))
    return found


@triton.jit
def scored(
    logits, bias, ids, t, n, T, N: tl.constexpr, K: tl.constexpr, FUNCTION: tl.constexpr, RENORMALISE: tl.constexpr,
    SCALE: tl.constexpr, GROUPS: tl.constexpr, GP: tl.constexpr, OPEN: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Of the tokens t [B, 1]: keys of selection scores, 0 for experts that may not be used; combine weights; [B, NP].

    Without a bias the scores are the logits themselves: softmax and sigmoid rise with them, and rounding makes no ties.
    """
    inside = (t < T) & (n < N)[None, :]
    x = tl.load(logits + t * N + n[None, :], mask=inside, other=0.0).to(tl.float32)
    if FUNCTION == "softmax":
        raw = softmax(x, (n < N)[None, :])
    else:
        e = exp(-tl.abs(x))
        raw = tl.where(x >= 0, 1.0, e) / (1.0 + e)
    chosen = x
    if HAS_BIAS:
        chosen = raw + tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    allowed = inside & (chosen == chosen)
    if OPEN < GROUPS:
        allowed = allowed & usable(chosen, n, N, GROUPS, GP, OPEN, HAS_BIAS)
    mass = raw
    if RENORMALISE:
        mass = raw / tl.sum(tl.where(member(ids, t, n, T, K), raw, 0.0), 1)[:, None]
    return tl.where(allowed, ordered(chosen), 0).to(tl.uint32), mass * SCALE


@triton.jit
def with_own(mass, weights, ids, t, n, K: tl.constexpr):
    """One token's combine weights [NP], with the router's own for its own K."""
    for i in tl.static_range(K):
        w = tl.load(weights + t * K + i).to(tl.float32)
        mass = tl.where(n == tl.load(ids + t * K + i).to(tl.int32), w, mass)
    return mass


@triton.jit
def placed(keys, n, NP: tl.constexpr):
    """int64: keys, and below them ids, so that all differ and ties go to the lower id."""
    return (keys.to(tl.int64) << 16) | (NP - 1 - n).to(tl.int64)


@triton.jit
def best(keys, mass, n, j, K: tl.constexpr, NP: tl.constexpr):
    """Weights, experts and keys [KP] of the K largest keys, ties to the lower id."""
    places = placed(keys, n, NP)
    top = tl.zeros_like(j).to(tl.int64)
    w = tl.zeros_like(j).to(tl.float32)
    for i in tl.static_range(K):
        place = tl.max(places, 0)
        here = places == place
        top = tl.where(j == i, place, top)
        w = tl.where(j == i, tl.sum(tl.where(here, mass, 0.0), 0), w)
        places = tl.where(here, -1, places)
    return w, NP - 1 - (top & 0xFFFF).to(tl.int32), (top >> 16).to(tl.uint32)


@triton.jit
def most_summed(
    logits, bias, ids, valid, cap, rows, n, T, N: tl.constexpr, NP: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    FUNCTION: tl.constexpr, RENORMALISE: tl.constexpr, SCALE: tl.constexpr, GROUPS: tl.constexpr, GP: tl.constexpr,
    OPEN: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_VALID: tl.constexpr,
):  # fmt: skip
    """bool [NP]: every real token's first expert, and those of most summed weight, C in all.

    Sums are taken in float64 and compared in float32, which is all that their terms are good for.
    """
    sums = tl.zeros([NP], tl.float64)
    firsts = tl.zeros([NP], tl.int32)
    for start in range(0, rows, ROWS):
        t = (start + tl.arange(0, ROWS))[:, None]
        real = real_rows(valid, t, T, HAS_VALID)
        keys, mass = scored(logits, bias, ids, t, n, T, N, K, FUNCTION, RENORMALISE, SCALE, GROUPS, GP, OPEN, HAS_BIAS)
        places = placed(keys, n[None, :], NP)
        firsts += tl.sum((real & (places == tl.max(places, 1)[:, None])).to(tl.int32), 0)
        sums += tl.sum(tl.where(real & (keys > 0), mass, 0.0).to(tl.float64), 0)
    keys = tl.where(firsts > 0, 0xFF800000, ordered(sums.to(tl.float32))).to(tl.uint32)
    prefix, left = cut(keys, n < N, tl.ceil(cap).to(tl.int32))
    at = (n < N) & (keys == prefix)
    return (firsts > 0) | ((n < N) & ((keys > prefix) | (at & (tl.cumsum(at.to(tl.int32), 0) <= left))))


@triton.jit
def based(
    weights, ids, valid, norms, given, k, k_base, tokens, start, T, K: tl.constexpr, KP: tl.constexpr,
    BLOCK: tl.constexpr, BASE: tl.constexpr, NORMS: tl.constexpr, HAS_VALID: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """What the base keeps of BLOCK tokens, and experts, which count only where it is kept; both [BLOCK, KP]."""
    t = (start + tl.arange(0, BLOCK))[:, None]
    j = tl.arange(0, KP)[None, :]
    live = real_rows(valid, t, T, HAS_VALID) & (j < K)
    if BASE == "given":
        e = tl.load(given + t * K + j, mask=live, other=DROPPED).to(tl.int32)
        keep = live & (e != DROPPED)
    else:
        e = tl.load(ids + t * K + j, mask=live, other=0).to(tl.int32)
        _, _, keys, rank = ranked(weights, ids, norms, t, j, T, K, KP, NORMS)
        if BASE == "alloc_t":
            keep = alloc_t_keep(rank, keys, live, k, k_base, tokens, BLOCK * KP, KP)
        else:
            keep = live & (rank.to(tl.float64) < k)
    return keep, tl.where(keep, e, 0)


@triton.jit
def experts_of(keep, e, PAIRS: tl.constexpr, NP: tl.constexpr):
    """int32 [NP]: how many kept pairs each expert has."""
    return tl.histogram(tl.reshape(e, [PAIRS]), NP, mask=tl.reshape(keep, [PAIRS]))


@triton.jit(do_not_specialize=["T"])
def within_kernel(
    weights, ids, valid, norms, given, logits, bias, k, k_base, pairs, limit, cap, out_weights, out_ids, T,
    N: tl.constexpr, NP: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    BASE: tl.constexpr, CAP: tl.constexpr, FUNCTION: tl.constexpr, RENORMALISE: tl.constexpr, SCALE: tl.constexpr,
    GROUPS: tl.constexpr, GP: tl.constexpr, OPEN: tl.constexpr, HAS_BIAS: tl.constexpr, NORMS: tl.constexpr,
    HAS_VALID: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Cap, and refill over BASE: "top_k", "alloc_t" (T is at most BLOCK then), or "given", the ids that a base kept."""
    t = tl.program_id(0)
    n = tl.arange(0, NP)
    j = tl.arange(0, KP)
    tokens = real_tokens(valid, T, HAS_VALID)
    small = tokens.to(tl.float64) <= tl.load(limit)
    rows = tl.where(small, T, 0)
    k = tl.load(k)
    k_base = tl.load(k_base)
    if BASE == "alloc_t":
        keep, e = based(
            weights, ids, valid, norms, given, k, k_base, tokens, 0, T, K, KP, BLOCK, BASE, NORMS, HAS_VALID, DROPPED
        )  # fmt: skip
        opened = experts_of(keep, e, BLOCK * KP, NP)
        own = experts_of(keep & (tl.arange(0, BLOCK) == t)[:, None], e, BLOCK * KP, NP)
    else:
        own_keep, own_e = based(
            weights, ids, valid, norms, given, k, k_base, tokens, t, T, K, KP, 1, BASE, NORMS, HAS_VALID, DROPPED
        )  # fmt: skip
        own = tl.max((tl.reshape(own_keep, [KP, 1]) & (tl.reshape(own_e, [KP, 1]) == n[None, :])).to(tl.int32), 0)
        if CAP:
            own = tl.where(small, 0, own)
            opened = most_summed(
                logits, bias, ids, valid, tl.load(cap), rows, n, T, N, NP, K, ROWS, FUNCTION, RENORMALISE, SCALE,
                GROUPS, GP, OPEN, HAS_BIAS, HAS_VALID,
            ).to(tl.int32)  # fmt: skip
        else:
            opened = tl.zeros([NP], tl.int32)
            for start in range(0, rows, BLOCK):
                keep, e = based(
                    weights, ids, valid, norms, given, k, k_base, tokens, start, T, K, KP, BLOCK, BASE, NORMS,
                    HAS_VALID, DROPPED,
                )  # fmt: skip
                opened += experts_of(keep, e, BLOCK * KP, NP)
    row = t + tl.zeros([1, 1], tl.int32)
    keys, mass = scored(logits, bias, ids, row, n, T, N, K, FUNCTION, RENORMALISE, SCALE, GROUPS, GP, OPEN, HAS_BIAS)
    mass = with_own(tl.reshape(mass, [NP]), weights, ids, t, n, K)
    keys = tl.where(own > 0, OWN, tl.where(opened > 0, tl.reshape(keys, [NP]), 0)).to(tl.uint32)
    w, e, keys = best(keys, mass, n, j, K, NP)
    kept = (keys == OWN) | ((keys > 0) & (j.to(tl.float64) < tl.where(small, tl.load(pairs), 0.0)))
    kept = kept & real_rows(valid, t + tl.zeros_like(j), T, HAS_VALID)
    tl.store(out_weights + t * K + j, tl.where(kept, w, 0.0), mask=j < K)
    tl.store(out_ids + t * K + j, tl.where(kept, e, DROPPED), mask=j < K)


@triton.jit(do_not_specialize=["T"])
def prune_kernel(
    weights, ids, valid, logits, stays, out_weights, out_ids, T,
    N: tl.constexpr, NP: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, RENORMALISE: tl.constexpr,
    ROUNDING: tl.constexpr, HAS_VALID: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Prune: the K best of the experts that stay, weighed by a softmax over them."""
    t = tl.program_id(0)
    n = tl.arange(0, NP)
    j = tl.arange(0, KP)
    row = t + tl.zeros([1, 1], tl.int32)
    x = tl.load(logits + t * N + n, mask=n < N, other=0.0).to(tl.float32)
    there = (n < N) & (tl.load(stays + n, mask=n < N, other=0.0) > 0)
    keys = tl.where(there, ordered(x), 0).to(tl.uint32)
    w, e, _ = best(keys, tl.reshape(softmax(x[None, :], there[None, :]), [NP]), n, j, K, NP)
    own = tl.full([], 1.0, tl.float32)
    if RENORMALISE:
        w = w / tl.sum(w, 0)
    else:
        mine = tl.where(member(ids, row, n, T, K), softmax(x[None, :], (n < N)[None, :]), 0.0)
        own = tl.sum(tl.reshape(mine, [NP]), 0)
    factor = tl.sum(tl.load(weights + t * K + j, mask=j < K, other=0.0).to(tl.float32), 0) / own
    w = w * tl.where(tl.abs(factor - 1) < ROUNDING, 1.0, factor)
    kept = real_rows(valid, t + tl.zeros_like(j), T, HAS_VALID) & (j < K)
    tl.store(out_weights + t * K + j, tl.where(kept, w, 0.0), mask=j < K)
    tl.store(out_ids + t * K + j, tl.where(kept, e, DROPPED), mask=j < K)
