"""Paired intervals and tests: how large a difference between two methods is, and whether it is one.

Everything here compares like with like: the same rounds of one timing session, the same windows of
one text, the same items of the same tasks. Whatever does not pair up is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allocmoe.errors import AllocMoEError

CONFIDENCE = 0.95
RESAMPLES = 4999


class Interval(NamedTuple):
    """An estimate and its confidence bounds, in the estimate's unit; bounds of NaN are not known."""

    estimate: float
    low: float = math.nan
    high: float = math.nan

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside; never, where the bounds are not known."""
        return value < self.low or value > self.high


UNKNOWN = Interval(math.nan)


def log_ratio(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Ratio a/b of two series measured in interleaved rounds: `exp(mean(log(a_i / b_i)))`.

    Args:
        a, b: [rounds], positive, in one unit; a_i and b_i come from the same round. With a the
            seconds of the original and b those of a method it is the method's speedup.
        confidence: of the t interval of the mean log-ratio.

    Raises AllocMoEError for series that do not pair up, fewer than two rounds, or a value that is
    not positive.
    """
    from scipy import stats

    x, y = _pair(a, b, "rounds")
    if (x <= 0).any() or (y <= 0).any():
        raise AllocMoEError("a ratio of times needs times above zero")
    logs = np.log(x / y)
    mean = float(logs.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1) * stats.sem(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def perplexity_ratio(
    nll_a: Sequence[float],
    nll_b: Sequence[float],
    tokens: Sequence[float],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """PPL_a / PPL_b on one text, with the percentile interval of a bootstrap over its windows.

    Args:
        nll_a, nll_b: [windows], mean negative log-likelihood per token of each window, nats.
        tokens: [windows], tokens scored in each; a perplexity is exp of the token-weighted mean.
        confidence, resamples, seed: of `scipy.stats.bootstrap`. Windows are drawn in pairs, so that
            what makes a window hard for both methods cancels.

    Raises AllocMoEError for series that do not pair up, fewer than two windows, or a window without
    tokens.
    """
    from scipy import stats

    x, y = _pair(nll_a, nll_b, "windows")
    weights, _ = _pair(tokens, nll_a, "windows")
    if (weights <= 0).any():
        raise AllocMoEError("every window needs at least one token")

    def ratio(gap: np.ndarray, weight: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.exp((gap * weight).sum(axis=axis) / weight.sum(axis=axis))

    drawn = stats.bootstrap(
        (x - y, weights),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(ratio(x - y, weights)), float(drawn.low), float(drawn.high))


def mean(values: Sequence[float], tokens: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Token-weighted mean over the windows of a text, with its t interval.

    Args:
        values: [windows], the mean over the tokens of each.
        tokens: [windows], tokens scored in each.
        confidence: of the interval, whose standard error is that of a ratio estimator.

    Raises AllocMoEError for series that do not pair up, fewer than two windows, or a window without tokens.
    """
    from scipy import stats

    x, _ = _pair(values, tokens, "windows")
    middle, error = _weighted(x, tokens)
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1)) * error
    return Interval(middle, middle - half, middle + half)


def accuracy(correct: Sequence[int], confidence: float = CONFIDENCE) -> Interval:
    """Share of correct items with its Wilson score interval.

    Args:
        correct: [items], 0 or 1.

    Raises AllocMoEError where there is no item or a value is neither 0 nor 1.
    """
    return wilson(_binary(correct), confidence)


def wilson(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Mean of values within 0..1 with its Wilson score interval. values: [items], at least one."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(values.sum(), len(values), alpha=1 - confidence, method="wilson")
    return Interval(float(values.mean()), float(low), float(high))


def mcnemar(correct_a: Sequence[int] | np.ndarray, correct_b: Sequence[int] | np.ndarray) -> float:
    """Exact two-sided p of McNemar's test that a and b are right equally often.

    Args:
        correct_a, correct_b: [items], 0 or 1, of the same items in the same order.

    Raises AllocMoEError for different lengths, no items, or a value that is neither 0 nor 1.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    x, y = _binary(correct_a), _binary(correct_b)
    if len(x) != len(y):
        raise AllocMoEError(f"cannot pair {len(x)} items with {len(y)}")
    table = [[int(((x == i) & (y == j)).sum()) for j in (1, 0)] for i in (1, 0)]
    return float(exact(table, exact=True).pvalue)


def holm(pvalues: Sequence[float]) -> list[float]:
    """The p-values adjusted for the size of their family by Holm's step-down method, in order.

    Raises AllocMoEError for an empty family or a value outside 0..1.
    """
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(pvalues, dtype=np.float64)
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise AllocMoEError("a family of tests needs p-values, each within 0..1")
    return [float(p) for p in multipletests(values, method="holm")[1]]


def _weighted(values: np.ndarray, tokens: Sequence[float]) -> tuple[float, float]:
    """Token-weighted mean of [windows], and its standard error as a ratio estimator."""
    weights = np.asarray(tokens, dtype=np.float64)
    if (weights <= 0).any():
        raise AllocMoEError("every window needs at least one token")
    n, middle = len(values), float((weights * values).sum() / weights.sum())
    error = math.sqrt(n / (n - 1) * float(np.sum((weights * (values - middle)) ** 2))) / float(weights.sum())
    return middle, error


def _pair(a: Sequence[float], b: Sequence[float], what: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise AllocMoEError(f"cannot pair {x.size} {what} with {y.size}")
    if len(x) < 2:
        raise AllocMoEError(f"an interval needs at least two {what}, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise AllocMoEError(f"one of the {what} is not a number: the measurement failed")
    return x, y


def _binary(correct: Sequence[int] | np.ndarray) -> np.ndarray:
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise AllocMoEError("an accuracy needs at least one item")
    if not np.isin(values, (0, 1)).all():
        raise AllocMoEError("an item is either correct (1) or not (0)")
    return values
