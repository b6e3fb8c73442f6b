"""How far one method moved between two measurements, one-sided: is it worse, and by how much at most.

Three kinds of evidence, each as a `Shift`: the same windows (perplexity), the same items (accuracy),
and several sessions a side (speed), where one session, that is one start of the engine, is one
observation. A shift above zero is a worsening. Those of perplexity and of speed are on the log scale, that of a mean
over windows is in its own unit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allocmoe.errors import AllocMoEError
from allocmoe.stats.paired import _binary, _pair, _weighted, perplexity_ratio

ALPHA = 0.05
POWER = 0.9


@dataclass(frozen=True)
class Shift:
    """A change, above zero if for the worse, with what is needed to judge it.

    Attributes:
        estimate: of the change; a difference of logs, or of accuracies in 0..1.
        low, high: one-sided bounds, each at level alpha.
        p: one-sided, of the hypothesis that nothing got worse.
        error: standard error of the estimate.
        critical: the number of standard errors between the estimate and a bound.
        freedom: degrees of freedom of `error`; infinite for a normal approximation.
        count: windows, items, or sessions of the smaller side.
        grain: variance that a loss of 1 brings of its own (accuracy: every item lost is one more that differs, so
            that it is 1 / items); 0 where it brings none.
    """

    estimate: float
    low: float
    high: float
    p: float
    error: float
    critical: float
    freedom: float
    count: int
    grain: float = 0.0

    def detectable(self, margin: float, alpha: float = ALPHA, power: float = POWER) -> float:
        """The smallest worsening that would have been reported with probability `power`.

        Reported is what is both significant at `alpha` (of the whole family: alpha over its size, the
        hardest step of Holm's method) and not shown to stay below `margin`, in the unit of the estimate.
        """
        from scipy import stats

        strict, sure = (float(stats.t.ppf(q, self.freedom)) for q in (1 - alpha, power))
        least = (strict + sure) * self.error
        if self.grain:  # solve d = k sqrt(error^2 + grain d)
            k2 = (strict + sure) ** 2
            least = (k2 * self.grain + math.sqrt((k2 * self.grain) ** 2 + 4 * k2 * self.error**2)) / 2
        return max(least, margin + (sure - self.critical) * self.error)

    def needed(self, margin: float, alpha: float = ALPHA, power: float = POWER) -> int:
        """About how many windows, items or sessions a side would tell `margin` from nothing with `power`."""
        from scipy import stats

        normal = float(stats.norm.ppf(1 - alpha))
        both = normal + float(stats.norm.ppf(power))
        found = self.count * (both * self.error / margin) ** 2
        # with no item that differs, the bound is z^2 / (n + z^2), n being 1 / grain
        found = max(found, self.count * self.grain * normal**2 * (1 / margin - 1))
        # at least two sessions; a t quantile of few degrees of freedom asks for about one more than a normal one
        return math.ceil(found - 1e-9) + (1 if math.isfinite(self.freedom) else 0)


def perplexity_rise(new: Sequence[float], old: Sequence[float], tokens: Sequence[float], alpha: float = ALPHA) -> Shift:
    """log(PPL_new / PPL_old) on the same windows, with bootstrap bounds.

    Args:
        new, old: [windows], mean negative log-likelihood per token, nats.
        tokens: [windows], tokens scored in each.
        alpha: of each bound.

    The p-value is that of a t test of the token-weighted mean gap, whose standard error is that of a
    ratio estimator: unlike the share of resamples below zero it can become as small as Holm's method needs.

    Raises AllocMoEError for series that do not pair up.
    """
    from scipy import stats

    ratio, low, high = perplexity_ratio(new, old, tokens, confidence=1 - 2 * alpha)
    x, y = _pair(new, old, "windows")
    weights = np.asarray(tokens, dtype=np.float64)
    n, change = len(x), math.log(ratio)
    error = float(np.sqrt(n / (n - 1) * np.sum((weights * (x - y - change)) ** 2)) / weights.sum())
    critical = float(stats.t.ppf(1 - alpha, n - 1))
    return Shift(
        change, math.log(low), math.log(high), _upper(change, error, n - 1), error, critical, float(n - 1), n
    )  # fmt: skip


def mean_rise(new: Sequence[float], old: Sequence[float], tokens: Sequence[float], alpha: float = ALPHA) -> Shift:
    """How far a mean over the same windows rose, in its own unit, with the bounds and the p-value of a paired t test.

    Args:
        new, old: [windows], mean over the tokens of each.
        tokens: [windows], tokens scored in each; the gap is their weighted mean, its error a ratio estimator's.
        alpha: of each bound.

    Raises AllocMoEError for series that do not pair up, or a window without tokens.
    """
    from scipy import stats

    x, y = _pair(new, old, "windows")
    _pair(new, tokens, "windows")
    n = len(x)
    change, error = _weighted(x - y, tokens)
    critical = float(stats.t.ppf(1 - alpha, n - 1))
    low, high = change - critical * error, change + critical * error
    return Shift(change, low, high, _upper(change, error, n - 1), error, critical, float(n - 1), n)


def accuracy_loss(new: Sequence[int] | np.ndarray, old: Sequence[int] | np.ndarray, alpha: float = ALPHA) -> Shift:
    """Accuracy lost between two measurements of the same items, in 0..1.

    Args:
        new, old: [items], 0 or 1, of the same items in the same order.
        alpha: of each bound, which are Tango's; the p-value is that of the exact McNemar test, one-sided.

    Raises AllocMoEError for different lengths, no items, or a value that is neither 0 nor 1.
    """
    from scipy import stats

    x, y = _binary(new), _binary(old)
    if len(x) != len(y):
        raise AllocMoEError(f"cannot pair {len(x)} items with {len(y)}")
    n, lost, won = len(x), int((x < y).sum()), int((x > y).sum())
    low, high = tango(lost, won, n, alpha)
    p = float(stats.binom.sf(lost - 1, lost + won, 0.5)) if lost + won else 1.0
    error = math.sqrt((lost + won) / n / n)
    critical = float(stats.norm.ppf(1 - alpha))
    return Shift((lost - won) / n, low, high, p, error, critical, math.inf, n, 1 / n)


def tango(b: int, c: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """One-sided score bounds, each at `alpha`, of a paired difference of proportions (b - c) / n.

    Args:
        b, c: pairs that differ in the one direction and in the other.
        n: all pairs.

    Tango (1998), Statistics in Medicine 17: 891-908. The bound is where the score statistic, with the
    nuisance parameter q at its maximum likelihood under the difference d, reaches the normal quantile.
    It has a width even where no pair differs, where a bootstrap has none.
    """
    from scipy import optimize, stats

    if not (min(b, c) >= 0 and b + c <= n and n > 0):
        raise AllocMoEError(f"{b} and {c} pairs that differ do not fit into {n} pairs")

    def score(d: float) -> float:
        above, variance = b - c - n * d, n * tango_variance(b, c, n, d)
        if variance <= 0:  # at an end of the range, or where no pair differs
            return math.copysign(math.inf, above) if above else 0.0
        return above / math.sqrt(variance)

    z, middle = float(stats.norm.ppf(1 - alpha)), (b - c) / n
    low = -1.0 if c == n else float(optimize.bisect(lambda d: score(d) - z, -1.0, middle))
    high = 1.0 if b == n else float(optimize.bisect(lambda d: score(d) + z, middle, 1.0))
    return low, high


def tango_variance(b: int, c: int, n: int, d: float) -> float:
    """n times the variance of a paired difference of proportions, supposed that it is `d`; see `tango`."""
    first, last = -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
    q = (math.sqrt(max(0.0, first * first - 8 * n * last)) - first) / (4 * n)
    return 2 * q + d * (1 - d)


def session_median(method: Sequence[float], original: Sequence[float]) -> float:
    """One session's estimate of log(method / original): the median over its rounds, paired in the round.

    Args:
        method, original: [rounds], seconds; round i of both ran right after each other.

    The median, because single rounds have heavy tails where other work runs on the machine: see
    `bench/simulate_gate.py`.

    Raises AllocMoEError for series that do not pair up or a time that is not above zero.
    """
    x, y = _pair(method, original, "rounds")
    if (x <= 0).any() or (y <= 0).any():
        raise AllocMoEError("a ratio of times needs times above zero")
    return float(statistics.median(np.log(x / y).tolist()))


def slowdown(new: Sequence[float], old: Sequence[float], alpha: float = ALPHA) -> Shift:
    """Mean log-ratio of the new sessions over that of the old ones, by Welch's t.

    Args:
        new, old: [sessions], what `session_median` says of each.
        alpha: of each bound.

    Raises AllocMoEError for fewer than two sessions on a side.
    """
    from scipy import stats

    x, y = (np.asarray(side, dtype=np.float64) for side in (new, old))
    if min(len(x), len(y)) < 2:
        raise AllocMoEError(f"a change of speed needs two sessions or more a side, got {len(x)} new and {len(y)} old")
    parts = [float(side.var(ddof=1)) / len(side) for side in (x, y)]
    change, variance = float(x.mean() - y.mean()), sum(parts)
    freedom = float(len(x) + len(y) - 2)
    if variance > 0:
        # of shares: squares of small variances are 0 in float64
        shares = [(part / variance) ** 2 / (len(side) - 1) for part, side in zip(parts, (x, y), strict=True)]
        freedom = 1 / sum(shares)
    error, critical = math.sqrt(variance), float(stats.t.ppf(1 - alpha, freedom))
    return Shift(
        change, change - critical * error, change + critical * error,
        _upper(change, error, freedom), error, critical, freedom, min(len(x), len(y)),
    )  # fmt: skip


def _upper(estimate: float, error: float, freedom: float) -> float:
    """P(T > estimate / error); certain where there is no error."""
    from scipy import stats

    if error == 0:
        return float(estimate <= 0)
    return float(stats.t.sf(estimate / error, freedom))
