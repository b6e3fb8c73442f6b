"""Steps in a series over commits: where its level changes, for values with and without noise.

`noisy` is for times: recursive segmentation by the largest t statistic. For every split of n values t
compares the means of the two sides, and for every run of commits the mean of the run with that of the
rest, because a bad commit that was mended later hardly moves the means of two sides. The largest of
either kind is compared with the largest of n normal values (Worsley 1979, JASA 74: 365, and Olshen et
al. 2004, Biostatistics 5: 557), so that looking at every place is paid for. What is significant and
large enough is kept, and the parts are searched again.

`exact` is for what repeats to the last digits (perplexity, accuracy, activations): a value further
from the level of its segment than the smallest change that counts begins a new one, so that a single
commit after the step is enough.

Chosen by measurement among four, with asv's and E-divisive: see `docs/errors.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

ALPHA = 0.01
DRAWS = 4999
SHORTEST, LONGEST = 2, 50
"""Commits in a run: a single one is rather an accident of the machine, longer ones are two splits anyway."""
CONSTANT = 1e-9
"""Spread of log-ratios that is rounding, not noise."""
SPLIT, RUN = 0, 1


class Step(NamedTuple):
    """The first point of a new level, and the probability of a split as clear in noise alone (0: exact)."""

    at: int
    p: float


def noisy(values: Sequence[float], minimum: float, alpha: float = ALPHA) -> list[Step]:
    """Steps of a series measured with noise, in order.

    Args:
        values: [commits], one estimate each, finite. Sessions of a commit are averaged before: run one
            after the other they share the machine's mood, and are not so many independent values.
        minimum: smallest difference of the two means that counts, in the unit of the values.
        alpha: largest p of a split; of the first one it is the rate of false alarms per series.
    """
    series = np.asarray(values, dtype=np.float64)
    found: list[Step] = []
    waiting = [(0, len(series))]
    while waiting:
        start, stop = waiting.pop()
        part = series[start:stop]
        if len(part) < 3 or np.ptp(part) <= CONSTANT:  # two values have no spread to compare with
            continue
        first, last, p = _best(part, SPLIT)
        if p > alpha:
            first, last, p = _best(part, RUN)
        inside = np.zeros(len(part), dtype=bool)
        inside[first:last] = True
        if p <= alpha and abs(part[inside].mean() - part[~inside].mean()) >= minimum:
            cuts = [at for at in (first, last) if 0 < at < len(part)]
            found += [Step(start + at, p) for at in cuts]
            waiting += [(start + a, start + b) for a, b in pairwise([0, *cuts, len(part)])]
    return sorted(found)


def exact(values: Sequence[float], minimum: float) -> list[Step]:
    """Steps of a series without noise, in order.

    Args:
        values: [commits], finite.
        minimum: smallest change that counts, relative to the level before (the median of its segment).
    """
    found: list[Step] = []
    start = 0
    for at in range(1, len(values)):
        level = float(np.median(values[start:at]))
        if abs(values[at] - level) > minimum * abs(level):
            found.append(Step(at, 0.0))
            start = at
    return found


def _best(values: np.ndarray, kind: int) -> tuple[int, int, float]:
    """The clearest part [first, last) of a kind, and its p, doubled because there are two kinds."""
    first, last = _parts(len(values), kind)
    if not len(first):
        return 0, 0, 1.0
    clear = _clarity(values, kind)
    at = int(clear.argmax())
    null = _largest(len(values), kind)
    above = len(null) - int(np.searchsorted(null, clear[at] * (1 - 1e-9)))
    return int(first[at]), int(last[at]), min(1.0, 2 * (1 + above) / (1 + len(null)))


def _clarity(values: np.ndarray, kind: int) -> np.ndarray:
    """Of [..., n] values, [..., parts]: r, the correlation with being in a part.

    r rises with |t| = r sqrt((n - 2) / (1 - r^2)), and stays finite where there is no noise.
    """
    n = values.shape[-1]
    first, last = _parts(n, kind)
    centred = values - values.mean(axis=-1, keepdims=True)
    squares = (centred**2).sum(axis=-1, keepdims=True)
    sums = np.concatenate([np.zeros_like(squares), centred.cumsum(axis=-1)], axis=-1)
    width = last - first
    return np.abs(sums[..., last] - sums[..., first]) / np.sqrt(width * (n - width) / n * squares)


@lru_cache(maxsize=256)
def _parts(n: int, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last (exclusive) places of the parts of n values: those from a split on, or runs between two."""
    if kind == SPLIT:
        return np.arange(1, n), np.full(n - 1, n)
    runs = [(a, b) for a in range(1, n) for b in range(a + SHORTEST, min(a + LONGEST + 1, n))]
    return np.array([a for a, _ in runs], dtype=int), np.array([b for _, b in runs], dtype=int)


@lru_cache(maxsize=256)
def _largest(n: int, kind: int) -> np.ndarray:
    """The largest clarity of n normal values, [DRAWS], sorted; seeded by n, so that a p can be repeated."""
    rng = np.random.default_rng(n)
    count = len(_parts(n, kind)[0])
    blocks = np.array_split(np.arange(DRAWS), 1 + DRAWS * count // 1_000_000)  # some MB at a time
    return np.sort(np.concatenate([_clarity(rng.normal(size=(len(b), n)), kind).max(axis=1) for b in blocks]))
