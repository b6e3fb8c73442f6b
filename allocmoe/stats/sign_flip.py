"""The sign-flip test: how often chance alone makes a sum of differences as large as the one that was seen.

Where nothing got better or worse, each difference might as well have had the other sign (Fisher 1935). With
differences of one size this is the exact test of McNemar.
"""

from __future__ import annotations

import math

import numpy as np

MOST = 1 << 20
"""Sums of one half of the differences that are listed; beyond, the tail is approximated."""
NEAR = 1e-3
"""Standard deviations from the centre within which a normal tail is as good."""
ROUNDING = 1e-9
"""Sums of the same differences in another order differ by less, relative to all of them."""


def tail(sizes: np.ndarray, total: float) -> float:
    """P(sum of randomly signed sizes >= total), one-sided.

    Args:
        sizes: [differences], above zero.
        total: the sum that was seen.

    Exact where all sums can be listed: in two halves, so up to 2^40 sums. Of more, and so of 40 differences
    or more, it is the saddlepoint approximation, good to about 1 % of p however small p is (5 % of few sizes); random
    signs would have to be drawn more often than there is time for before a p is small enough for Holm's method.
    """
    if not len(sizes):
        return 1.0 if total <= 0 else 0.0
    slack = ROUNDING * float(sizes.sum())
    distinct, counts = _merged(sizes, slack / len(sizes))
    if len(distinct) == 1:
        return _one_size(int(counts[0]), total / float(distinct[0]), slack / float(distinct[0]))
    halves = _halves(counts)
    if halves is None:
        return _saddlepoint(distinct, counts, total)
    (sums, chances), (others, their) = (_listed(distinct[half], counts[half]) for half in halves)
    order = np.argsort(others)
    above = np.append(np.cumsum(their[order][::-1])[::-1], 0.0)
    return min(1.0, float(chances @ above[np.searchsorted(others[order], total - slack - sums)]))


def _merged(sizes: np.ndarray, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sizes, those nearer than `apart` being one, and how many there are of each."""
    ordered = np.sort(sizes)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered) > apart]))
    return ordered[starts], np.diff(np.append(starts, len(ordered)))


def _one_size(count: int, total: float, slack: float) -> float:
    """The binomial tail: at least `most` of `count` signs are plus."""
    from scipy import stats

    least = math.ceil((count + total - slack) / 2)
    return float(stats.binom.sf(least - 1, count, 0.5))


def _halves(counts: np.ndarray) -> tuple[list[int], list[int]] | None:
    """The places of the counts in two halves of about as many sums each; None where they are too many."""
    found: tuple[list[int], list[int]] = ([], [])
    sums = [1, 1]
    for place in np.argsort(-counts, kind="stable").tolist():
        side = int(sums[1] < sums[0])
        found[side].append(place)
        sums[side] *= int(counts[place]) + 1
    return found if max(sums) <= MOST else None


def _listed(sizes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All sums of `counts` signed sizes each, and their probabilities."""
    from scipy import stats

    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        plus = np.arange(count + 1)
        sums = (sums[:, None] + size * (2 * plus - count)).ravel()
        chances = (chances[:, None] * stats.binom.pmf(plus, count, 0.5)).ravel()
    return sums, chances


def _saddlepoint(sizes: np.ndarray, counts: np.ndarray, total: float) -> float:
    """Lugannani and Rice (1980), Advances in Applied Probability 12: 475-490, for a sum of signed sizes, whose
    cumulant generating function is K(s) = sum log cosh(s a)."""
    from scipy import optimize, stats

    if total < 0:  # the distribution is symmetric
        return 1 - _saddlepoint(sizes, counts, -total)
    spread = math.sqrt(float(counts @ sizes**2))
    if total < NEAR * spread:  # at the centre the formula divides nothing by nothing
        return float(stats.norm.sf(total / spread))

    def slope(s: float) -> float:
        return float(counts @ (sizes * np.tanh(s * sizes))) - total

    top = total / spread**2
    while slope(top) < 0:
        top *= 2
        if top * float(sizes.min()) > MOST:  # all signs are plus
            return float(0.5 ** counts.sum())
    s = float(optimize.brentq(slope, 0.0, top, xtol=1e-14 * top))
    x = s * sizes
    cumulant = float(counts @ (np.logaddexp(x, -x) - math.log(2)))
    curve = float(counts @ (sizes / np.cosh(np.minimum(x, 300.0))) ** 2)
    w, u = math.sqrt(2 * max(0.0, s * total - cumulant)), s * math.sqrt(curve)
    return float(stats.norm.sf(w) + stats.norm.pdf(w) * (1 / u - 1 / w))
