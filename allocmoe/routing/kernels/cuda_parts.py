"""What the Triton kernels share: scores as keys that sort as torch sorts, ranks by counting, a cut by histograms.

Nothing here sorts. A key is a score's 32 bits, so turned that whole numbers compare as the scores do; the pair at which
a budget ends is found in four rounds of a 256-bin histogram over the keys, from their top 8 bits down.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ordered(x):
    """float32 to uint32 in the order of torch's sort: NaN above all, -0.0 as 0.0. No key is 0."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.uint32, bitcast=True)
    bits = tl.where(x != x, 0x7FC00000, bits).to(tl.uint32)
    return tl.where((bits >> 31) != 0, ~bits, bits | 0x80000000).to(tl.uint32)


@triton.jit
def real_rows(valid, t, T, HAS_VALID: tl.constexpr):
    """Which of the rows t are tokens and not padding."""
    real = t < T
    if HAS_VALID:
        real = real & (tl.load(valid + t, mask=real, other=0) != 0)
    return real


@triton.jit
def real_tokens(valid, T, HAS_VALID: tl.constexpr):
    """How many rows of the pass are tokens."""
    count = T
    if HAS_VALID:
        sums = tl.zeros([1024], tl.int32)
        for start in range(0, T, 1024):
            sums += real_rows(valid, start + tl.arange(0, 1024), T, HAS_VALID).to(tl.int32)
        count = tl.sum(sums, 0)
    return count


@triton.jit
def worth(weights, ids, norms, t, j, T, K: tl.constexpr, NORMS: tl.constexpr):
    """Weights in float32 of the candidates j of tokens t, and what they are chosen by: NORMS says whether that is the
    weight times the expert's norm."""
    inside = (t < T) & (j < K)
    w = tl.load(weights + t * K + j, mask=inside, other=0.0).to(tl.float32)
    score = w
    if NORMS:
        e = tl.load(ids + t * K + j, mask=inside, other=0)
        score = w * tl.load(norms + tl.maximum(e, 0), mask=inside, other=0.0)
    return w, score


@triton.jit
def ranked(weights, ids, norms, t, j, T, K: tl.constexpr, KP: tl.constexpr, NORMS: tl.constexpr):
    """Of the tokens t [B, 1]: weights and scores [B, KP] in float32, the scores' keys, and their ranks in a stable
    descending sort.

    Columns from K on have rank KP.
    """
    w, score = worth(weights, ids, norms, t, j, T, K, NORMS)
    keys = ordered(score)
    rank = tl.where(j < K, 0, KP) + tl.zeros_like(keys).to(tl.int32)
    for i in tl.static_range(K):
        other = ordered(worth(weights, ids, norms, t, i, T, K, NORMS)[1])
        before = (other > keys) | ((other == keys) & (i < j))
        rank += (before & (j < K)).to(tl.int32)
    return w, score, keys, rank


@triton.jit
def counted(keys, live, prefix, ROUND: tl.constexpr):
    """[256]: of the live keys that begin with the 8 * ROUND bits of prefix, how many have each next digit."""
    if ROUND > 0:
        live = live & ((keys >> (32 - 8 * ROUND)) == prefix)
    digits = ((keys >> (24 - 8 * ROUND)) & 255).to(tl.int32)
    return tl.histogram(digits, 256, mask=live)


@triton.jit
def next_digit(counts, prefix, wanted):
    """The prefix of the wanted-th largest key, one digit longer, and how many are wanted of those that begin with it.

    All keys are above it if there are no more than are wanted, and none if none is.
    """
    at_least = tl.cumsum(counts, 0, reverse=True)
    digit = tl.maximum(tl.sum((at_least >= wanted).to(tl.int32), 0) - 1, 0)
    wanted -= tl.sum(tl.where(tl.arange(0, 256) > digit, counts, 0), 0)
    return ((prefix << 8) | digit.to(tl.uint32)).to(tl.uint32), wanted


@triton.jit
def cut(keys, live, wanted):
    """The wanted-th largest of the live keys [n], and how many of those that equal it are wanted."""
    prefix = tl.full([], 0, tl.uint32)
    for i in tl.static_range(4):
        prefix, wanted = next_digit(counted(keys, live, prefix, i), prefix, wanted)
    return prefix, wanted


@triton.jit
def budgeted(rank, keys, k, k_base):
    """Alloc-T's keys: those of a token's first k_base as of +inf."""
    base = tl.minimum(tl.floor(k), k_base).to(tl.int32)
    return tl.where(rank < base, 0xFF800000, keys).to(tl.uint32)


@triton.jit
def spend(k, tokens):
    """floor(k * tokens), with k in float64 and the reference's allowance for rounding."""
    return tl.floor(k * tokens.to(tl.float64) + tl.full([], 1e-6, tl.float64)).to(tl.int32)


@triton.jit
def above_cut(keys, live, rank, prefix, left, KP: tl.constexpr):
    """bool [B, KP]: keys above the cut, and the first `left` of those at it: by token, then by rank."""
    at = live & (keys == prefix)
    count = tl.sum(at.to(tl.int32), 1)
    left = left - (tl.cumsum(count, 0) - count)
    first = tl.min(tl.where(at, rank, KP), 1)
    return live & ((keys > prefix) | (at & ((rank - first[:, None]) < left[:, None])))


@triton.jit
def alloc_t_keep(rank, keys, live, k, k_base, tokens, PAIRS: tl.constexpr, KP: tl.constexpr):
    """bool [B, KP]: Alloc-T's choice in a pass that is in this program as a whole."""
    keys = budgeted(rank, keys, k, k_base)
    prefix, left = cut(tl.reshape(keys, [PAIRS]), tl.reshape(live, [PAIRS]), spend(k, tokens))
    return above_cut(keys, live, rank, prefix, left, KP)
