"""Triton kernels of the rules that keep a token's first candidates. Each equals the torch rule bit for bit.

Blocks of candidates are [B, KP]: B tokens, and K rounded up to a power of two. A pair is written at its rank, so rows
come out sorted. Sums of scores run in float64 from one end and are rounded at every step, as torch's cumsum does on a
CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from allocmoe.routing.kernels.cuda_parts import (
    above_cut,
    alloc_t_keep,
    budgeted,
    counted,
    next_digit,
    ranked,
    real_rows,
    real_tokens,
    spend,
)


@triton.jit
def at_rank(w, rank, r):
    """[B]: every token's weight of rank r."""
    return tl.sum(tl.where(rank == r, w, 0.0), 1)


@triton.jit
def within_mass(w, rank, threshold, K: tl.constexpr):
    """Top-P and XMoE: the mass before a candidate is at most P."""
    keep = rank == 0
    mass = at_rank(w, rank, 0).to(tl.float64)
    for r in tl.static_range(1, K):
        keep = keep | ((rank == r) & (mass.to(tl.float32) <= threshold)[:, None])
        mass += at_rank(w, rank, r).to(tl.float64)
    return keep


@triton.jit
def within_ratio(w, rank, threshold):
    """NAEE: at least beta times the first; a first score of zero tells nothing apart."""
    first = at_rank(w, rank, 0)[:, None]
    ratio = tl.where(first > 0, tl.div_rn(w, tl.maximum(first, 1.1754943508222875e-38) + tl.zeros_like(w)), 1.0)
    return (rank == 0) | (ratio >= threshold)


@triton.jit
def within_tail(w, rank, threshold, fisher, K: tl.constexpr):
    """AdapMoE: the tail from a candidate on costs more than T."""
    mass = at_rank(w, rank, K - 1).to(tl.float64)
    tail = tl.where(rank == K - 1, mass.to(tl.float32)[:, None], 0.0)
    for i in tl.static_range(1, K):
        mass += at_rank(w, rank, K - 1 - i).to(tl.float64)
        tail = tl.where(rank == K - 1 - i, mass.to(tl.float32)[:, None], tail)
    whole = mass.to(tl.float32)
    limit = threshold * tl.where(whole > 0, whole * whole, 1.0)
    return (rank == 0) | (tail * tail * fisher > limit[:, None])


@triton.jit
def written(
    ids, out_weights, out_ids, w, rank, keep, t, j, T, K: tl.constexpr, WIDTH: tl.constexpr, DROPPED: tl.constexpr
):  # fmt: skip
    """Every pair to its rank: its weight and expert if it is kept, else 0 and DROPPED."""
    inside = (t < T) & (j < K)
    e = tl.load(ids + t * K + j, mask=inside, other=0)
    to = t * WIDTH + rank
    inside = inside & (rank < WIDTH)
    tl.store(out_weights + to, tl.where(keep, w, 0.0), mask=inside)
    tl.store(out_ids + to, tl.where(keep, e, DROPPED), mask=inside)


@triton.jit(do_not_specialize=["T"])
def alone_kernel(
    weights, ids, valid, norms, first, second, out_weights, out_ids, T,
    K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, RULE: tl.constexpr, WIDTH: tl.constexpr,
    NORMS: tl.constexpr, HAS_VALID: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Rules that decide a token by itself: a program takes BLOCK tokens. RULE "all" keeps the first WIDTH."""
    t = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    j = tl.arange(0, KP)[None, :]
    w, score, _, rank = ranked(weights, ids, norms, t, j, T, K, KP, NORMS)
    keep = rank < WIDTH
    if RULE == "top_k":
        keep = rank.to(tl.float64) < tl.load(first)
    elif RULE == "mass":
        keep = within_mass(w, rank, tl.load(first).to(tl.float32), K)
    elif RULE == "naee":
        keep = within_ratio(w, rank, tl.load(first).to(tl.float32))
    elif RULE == "score":
        keep = (rank.to(tl.float64) < tl.load(second)) | (score >= tl.load(first).to(tl.float32)) | (score != score)
    elif RULE == "adapmoe":
        keep = within_tail(w, rank, tl.load(first).to(tl.float32), tl.load(second).to(tl.float32), K)
    keep = keep & real_rows(valid, t, T, HAS_VALID)
    written(ids, out_weights, out_ids, w, rank, keep, t, j, T, K, WIDTH, DROPPED)


@triton.jit(do_not_specialize=["T"])
def alloc_t_kernel(
    weights, ids, valid, norms, k, k_base, out_weights, out_ids, T,
    K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, NORMS: tl.constexpr, HAS_VALID: tl.constexpr,
    DROPPED: tl.constexpr,
):  # fmt: skip
    """Alloc-T in one program, which holds the pass as a whole: T is at most BLOCK."""
    t = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, KP)[None, :]
    w, _, keys, rank = ranked(weights, ids, norms, t, j, T, K, KP, NORMS)
    live = real_rows(valid, t, T, HAS_VALID) & (j < K)
    tokens = tl.sum(real_rows(valid, tl.arange(0, BLOCK), T, HAS_VALID).to(tl.int32), 0)
    keep = alloc_t_keep(rank, keys, live, tl.load(k), tl.load(k_base), tokens, BLOCK * KP, KP)
    written(ids, out_weights, out_ids, w, rank, keep, t, j, T, K, K, DROPPED)


@triton.jit(do_not_specialize=["T", "BLOCKS"])
def alloc_t_round_kernel(
    weights, ids, valid, norms, k, k_base, counts, out_weights, out_ids, T, BLOCKS,
    K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, ROUND: tl.constexpr, NORMS: tl.constexpr,
    HAS_VALID: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Alloc-T in five launches: ROUND 0 to 3 each count one digit into counts [4, BLOCKS, 256], ROUND 4 writes.

    A program adds up what all others counted in the rounds before, so nothing is atomic. The last round's counts also
    say how many pairs at the cut lie in earlier blocks.
    """
    block = tl.program_id(0)
    t = (block * BLOCK + tl.arange(0, BLOCK))[:, None]
    j = tl.arange(0, KP)[None, :]
    digits = tl.arange(0, 256)
    w, _, keys, rank = ranked(weights, ids, norms, t, j, T, K, KP, NORMS)
    keys = budgeted(rank, keys, tl.load(k), tl.load(k_base))
    live = real_rows(valid, t, T, HAS_VALID) & (j < K)
    prefix = tl.full([], 0, tl.uint32)
    wanted = tl.full([], 0, tl.int32)
    if ROUND > 0:
        wanted += spend(tl.load(k), real_tokens(valid, T, HAS_VALID))
    earlier = tl.zeros([256], tl.int32)
    for i in tl.static_range(ROUND):
        total = tl.zeros([256], tl.int32)
        earlier = tl.zeros([256], tl.int32)
        for start in range(0, BLOCKS, 16):
            b = (start + tl.arange(0, 16))[:, None]
            part = tl.load(counts + (i * BLOCKS + b) * 256 + digits[None, :], mask=b < BLOCKS, other=0)
            total += tl.sum(part, 0)
            earlier += tl.sum(tl.where(b < block, part, 0), 0)
        prefix, wanted = next_digit(total, prefix, wanted)
    if ROUND < 4:
        flat = counted(tl.reshape(keys, [BLOCK * KP]), tl.reshape(live, [BLOCK * KP]), prefix, ROUND)
        tl.store(counts + (ROUND * BLOCKS + block) * 256 + digits, flat)
    else:
        wanted -= tl.sum(tl.where(digits == (prefix & 255).to(tl.int32), earlier, 0), 0)
        keep = above_cut(keys, live, rank, prefix, wanted, KP)
        written(ids, out_weights, out_ids, w, rank, keep, t, j, T, K, K, DROPPED)
