"""Shifts between two measurements, against scipy, numeric likelihoods, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from allocmoe import stats
from allocmoe.errors import AllocMoEError

few = settings(max_examples=30, deadline=None)
Z = scipy_stats.norm.ppf(0.95)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(5, 400))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


def score(b: int, c: int, n: int, d: float) -> float:
    """Tango's statistic with the nuisance parameter found by a numeric constrained maximum likelihood."""

    def minus_log_likelihood(q: float) -> float:
        parts = ((b, q + d), (c, q), (n - b - c, 1 - 2 * q - d))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    low, high = max(0.0, -d), (1 - d) / 2
    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    )
    q = min((found.x, low, high), key=minus_log_likelihood)
    return (b - c - n * d) / math.sqrt(n * (2 * q + d - d * d))


@few
@given(tables())
def test_tango_is_where_the_score_with_a_numeric_likelihood_reaches_the_quantile(table):
    b, c, n = table
    low, high = stats.tango(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    if low > -1 and c < n:
        assert score(b, c, n, low) == pytest.approx(Z, abs=2e-3)
    if high < 1 and b < n:
        assert score(b, c, n, high) == pytest.approx(-Z, abs=2e-3)


@few
@given(tables())
def test_tango_turned_round_changes_sign(table):
    b, c, n = table
    low, high = stats.tango(b, c, n)
    assert stats.tango(c, b, n) == pytest.approx((-high, -low), abs=1e-9)


@few
@given(st.integers(2, 100_000))
def test_tango_has_a_width_where_no_pair_differs(n):
    high = Z * Z / (n + Z * Z)
    assert stats.tango(0, 0, n) == pytest.approx((-high, high), abs=1e-9)


@pytest.mark.parametrize(("lost", "won"), [(0.01, 0.01), (0.002, 0.0005), (0.05, 0.04), (0.2, 0.1), (0.03, 0.0)])
def test_tango_covers_the_truth_as_often_as_it_says(lost, won):
    n, draws = 300, 1500
    counts = np.random.default_rng(0).multinomial(n, [lost, won, 1 - lost - won], size=draws)
    bounds = {pair: stats.tango(*pair, n) for pair in {(int(b), int(c)) for b, c, _ in counts}}
    below, above = (
        np.mean([side(bounds[int(b), int(c)]) for b, c, _ in counts])
        for side in (lambda x: x[0] <= lost - won, lambda x: x[1] >= lost - won)
    )
    assert below > 0.92  # discrete: a step of one item can be one per cent of the samples
    assert above > 0.92


def test_accuracy_loss_counts_what_was_right_and_is_wrong():
    old, new = np.array([1] * 80 + [0] * 20), np.array([0] * 9 + [1] * 71 + [1] * 2 + [0] * 18)
    found = stats.accuracy_loss(new, old)
    assert found.estimate == pytest.approx(0.07)
    assert (found.low, found.high) == stats.tango(9, 2, 100)
    assert found.p == pytest.approx(scipy_stats.binomtest(9, 11, alternative="greater").pvalue)
    assert stats.accuracy_loss(old, old).p == 1


@few
@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=12), st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=12))
def test_slowdown_is_welchs_test(new, old):
    found = stats.slowdown(new, old)
    assert found.estimate == pytest.approx(np.mean(new) - np.mean(old), abs=1e-12)
    assert found.low <= found.estimate <= found.high
    if min(np.var(new), np.var(old)) > 1e-10:
        oracle = scipy_stats.ttest_ind(new, old, equal_var=False, alternative="greater")
        assert found.p == pytest.approx(oracle.pvalue)
        assert found.low == pytest.approx(oracle.confidence_interval(0.95).low)
        assert found.count == min(len(new), len(old))


def test_slowdown_is_the_same_in_any_unit():
    """Also where squares of variances vanish."""
    new, old = [0.5, 0.7, 0.4], [0.1, 0.3]
    whole = stats.slowdown(new, old)
    for unit in (1e-150, 1e-100, 1e100):
        found = stats.slowdown([unit * v for v in new], [unit * v for v in old])
        assert (found.p, found.low / unit) == pytest.approx((whole.p, whole.low))


def test_slowdown_without_noise_is_certain():
    assert stats.slowdown([0.5, 0.5], [0.25, 0.25]).p == 0
    assert stats.slowdown([0.25, 0.25], [0.25, 0.25]).p == 1


def test_session_median_pairs_rounds_and_bears_outliers():
    rng = np.random.default_rng(0)
    rounds = rng.uniform(1, 3, 21)
    method = rounds * 0.9
    assert stats.session_median(method, rounds) == pytest.approx(math.log(0.9))
    method[:8] *= rng.uniform(1, 50, 8)
    assert stats.session_median(method, rounds) == pytest.approx(math.log(0.9))


def test_perplexity_rise_is_the_bootstrap_with_a_t_test():
    rng = np.random.default_rng(1)
    old, tokens = rng.normal(2, 0.3, 64), np.full(64, 255)
    new = old + rng.normal(0.004, 0.02, 64)
    found = stats.perplexity_rise(new, old, tokens)
    ratio = stats.perplexity_ratio(new, old, tokens, confidence=0.9)
    assert np.exp([found.estimate, found.low, found.high]) == pytest.approx(ratio)
    assert found.p == pytest.approx(scipy_stats.ttest_rel(new, old, alternative="greater").pvalue)
    assert stats.perplexity_rise(old, old, tokens).p == 1


def test_perplexity_rise_of_unequal_windows_errs_as_a_resampling_says():
    rng = np.random.default_rng(2)
    old, tokens = rng.normal(2, 0.3, 400), rng.integers(10, 500, 400)
    new = old + rng.normal(0, 0.05, 400)
    found = stats.perplexity_rise(new, old, tokens)
    assert found.high - found.low == pytest.approx(2 * Z * found.error, rel=0.08)


def test_mean_rise_is_a_paired_t_test():
    rng = np.random.default_rng(1)
    old, tokens = rng.normal(0.2, 0.1, 64), np.full(64, 255)
    new = old + rng.normal(0.004, 0.02, 64)
    found, test = stats.mean_rise(new, old, tokens), scipy_stats.ttest_rel(new, old, alternative="greater")
    assert found.estimate == pytest.approx(new.mean() - old.mean())
    assert found.p == pytest.approx(test.pvalue)
    assert found.low == pytest.approx(test.confidence_interval(0.95).low)
    assert found.high == pytest.approx(2 * found.estimate - found.low)
    same = stats.mean_rise(old, old, tokens)
    assert (same.estimate, same.high, same.p) == (0, 0, 1)


def test_mean_rise_of_unequal_windows_errs_as_a_resampling_says():
    rng = np.random.default_rng(2)
    old, tokens = rng.normal(0.2, 0.1, 400), rng.integers(10, 500, 400)
    new = old + rng.normal(0.01, 0.05, 400) * (tokens > 250)
    found = stats.mean_rise(new, old, tokens)
    assert found.estimate == pytest.approx(np.average(new - old, weights=tokens))
    picked = rng.integers(0, 400, (4000, 400))
    drawn = ((new - old) * tokens)[picked].sum(1) / tokens[picked].sum(1)
    assert found.error == pytest.approx(drawn.std(), rel=0.06)


MARGIN = math.log1p(0.03)


@pytest.mark.parametrize(("sessions", "noise", "tests"), [(6, 0.04, 1), (20, 0.04, 8), (20, 0.004, 1)])
def test_what_is_said_to_be_detectable_is_reported_nine_times_in_ten(sessions, noise, tests):
    rng, alpha = np.random.default_rng(3), 0.05 / tests
    exact = noise * math.sqrt(2 / sessions)
    critical = scipy_stats.t.ppf(0.95, 2 * sessions - 2)
    shift = stats.Shift(0, 0, 0, 1, exact, critical, 2 * sessions - 2, sessions)
    worse = shift.detectable(MARGIN, alpha)
    assert worse >= MARGIN * 0.5
    reported = 0
    for _ in range(400):
        found = stats.slowdown(rng.normal(worse, noise, sessions), rng.normal(0, noise, sessions))
        reported += found.p <= alpha and found.high >= MARGIN
    assert 0.85 < reported / 400 < 0.95


@pytest.mark.parametrize("flips", [0.0, 0.01])
def test_a_detectable_loss_of_accuracy_is_reported_nine_times_in_ten(flips):
    rng, n = np.random.default_rng(4), 2000
    old = np.ones(n, dtype=int)
    shift = stats.accuracy_loss(old, old)
    shift = stats.Shift(0, 0, 0, 1, math.sqrt(flips / n), shift.critical, math.inf, n, 1 / n)
    worse = shift.detectable(0.001)
    reported = 0
    for _ in range(400):
        lost, won, _ = rng.multinomial(n, [worse + flips / 2, flips / 2, 1 - worse - flips])
        new = np.array([0] * lost + [1] * (n - lost))
        before = np.array([1] * (n - won) + [0] * won)
        reported += stats.accuracy_loss(new, before).p <= 0.05
    assert 0.82 < reported / 400 <= 0.98


def test_the_sessions_said_to_be_needed_suffice():
    rng, noise, n = np.random.default_rng(5), 0.04, 6
    shift = stats.Shift(0, 0, 0, 1, noise * math.sqrt(2 / n), 1.8, 10.0, n)
    enough = shift.needed(MARGIN)
    assert enough > n
    found = [stats.slowdown(rng.normal(0, noise, enough), rng.normal(0, noise, enough)) for _ in range(400)]
    assert 0.85 < np.mean([f.high < MARGIN for f in found]) < 0.96


def test_the_items_said_to_be_needed_suffice_where_none_differs():
    enough = stats.accuracy_loss([1], [1]).needed(0.01)
    assert stats.tango(0, 0, enough)[1] <= 0.01 < stats.tango(0, 0, enough - 1)[1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.tango(3, 3, 5), "do not fit into 5 pairs"),
        (lambda: stats.tango(-1, 3, 5), "do not fit"),
        (lambda: stats.accuracy_loss([1, 0], [1]), "cannot pair 2 items with 1"),
        (lambda: stats.accuracy_loss([], []), "at least one item"),
        (lambda: stats.slowdown([0.1], [0.1, 0.2]), "two sessions or more a side, got 1 new and 2 old"),
        (lambda: stats.session_median([1.0, 0.0], [1.0, 1.0]), "above zero"),
        (lambda: stats.session_median([1.0, 2.0, 3.0], [1.0, 1.0]), "cannot pair 3 rounds with 2"),
        (lambda: stats.perplexity_rise([1, 2], [1, 2, 3], [1, 1]), "cannot pair"),
        (lambda: stats.mean_rise([1, 2], [1, 2, 3], [1, 1]), "cannot pair"),
        (lambda: stats.mean_rise([1, 2], [1, 2], [1, 1, 1]), "cannot pair"),
        (lambda: stats.mean_rise([1, 2], [1, 2], [1, 0]), "at least one token"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, says):
    with pytest.raises(AllocMoEError, match=says):
        call()
