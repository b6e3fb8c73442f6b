"""Intervals and tests against formulas written out, and against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats import contingency_tables, multitest, proportion  # noqa: F401  slow to import, so not in a test

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.stats import Interval

few = settings(max_examples=40, deadline=None)
binary = st.lists(st.integers(0, 1), min_size=1, max_size=40)


def test_log_ratio_is_the_paired_t_interval_of_the_logs():
    rng = np.random.default_rng(0)
    rounds = rng.normal(0, 0.5, 10)  # shared by both, so it must cancel
    a, b = np.exp(rounds + 0.3 + rng.normal(0, 0.02, 10)), np.exp(rounds)
    found = stats.log_ratio(a.tolist(), b.tolist())
    oracle = scipy_stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    assert found.low == pytest.approx(math.exp(oracle.low))
    assert found.high == pytest.approx(math.exp(oracle.high))
    assert found.estimate == pytest.approx(scipy_stats.gmean(a) / scipy_stats.gmean(b))
    assert found.excludes(1)


@few
@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=20))
def test_log_ratio_turned_round_is_its_inverse(pairs):
    a, b = zip(*pairs, strict=True)
    forth, back = stats.log_ratio(a, b), stats.log_ratio(b, a)
    assert forth.low <= forth.estimate <= forth.high
    assert back == pytest.approx((1 / forth.estimate, 1 / forth.high, 1 / forth.low))


def test_log_ratio_of_equal_series_is_one_without_width():
    assert stats.log_ratio([2.0, 3.0], [2.0, 3.0]) == (1, 1, 1)


def test_log_ratio_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        hits += not stats.log_ratio(np.exp(rng.normal(0.1, 0.05, 10)), np.ones(10)).excludes(math.exp(0.1))
    assert 0.91 < hits / 300 < 0.99


def test_perplexity_ratio_is_that_of_the_token_weighted_perplexities():
    rng = np.random.default_rng(2)
    tokens, b = rng.integers(50, 256, 32), rng.normal(2.5, 0.4, 32)
    a = b + rng.normal(0.05, 0.02, 32)
    found = stats.perplexity_ratio(a, b, tokens)
    whole = [math.exp(sum(n * x for n, x in zip(tokens, nll, strict=True)) / tokens.sum()) for nll in (a, b)]
    assert found.estimate == pytest.approx(whole[0] / whole[1])
    drawn = []
    for _ in range(2000):
        i = rng.integers(0, 32, 32)
        drawn.append(math.exp(((a - b)[i] * tokens[i]).sum() / tokens[i].sum()))
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-3)
    assert found == stats.perplexity_ratio(a, b, tokens)


def test_mean_is_the_t_interval():
    values = np.random.default_rng(3).normal(0.2, 0.1, 20)
    found = stats.mean(values, [255] * 20)
    wanted = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found == pytest.approx((values.mean(), wanted.low, wanted.high))
    assert stats.mean([0, 1], [3, 1]).estimate == 0.25


def test_perplexity_ratio_of_a_method_with_itself_is_one():
    nll = [2.0, 3.0, 2.5]
    assert stats.perplexity_ratio(nll, nll, [10, 20, 30]) == (1, 1, 1)


@few
@given(binary)
def test_accuracy_is_the_wilson_interval(correct):
    n, p, z = len(correct), sum(correct) / len(correct), scipy_stats.norm.ppf(0.975)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert stats.accuracy(correct) == pytest.approx((p, middle - half, middle + half), abs=1e-9)


@few
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12))
def test_mcnemar_is_exact(pairs):
    a, b = zip(*pairs, strict=True)
    discordant, wins = sum(x != y for x, y in pairs), sum(x > y for x, y in pairs)
    # every way the discordant pairs can fall is equally likely: count those at least as lopsided
    falls = [sum(fall) for fall in itertools.product((0, 1), repeat=discordant)]
    extreme = sum(abs(f - discordant / 2) >= abs(wins - discordant / 2) for f in falls)
    assert stats.mcnemar(a, b) == pytest.approx(extreme / len(falls))
    assert stats.mcnemar(a, b) == stats.mcnemar(b, a)


@settings(few, max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
def test_holm_steps_down(pvalues):
    found, level = stats.holm(pvalues), 0.0
    for rank, i in enumerate(np.argsort(pvalues, kind="stable")):
        level = max(level, min(1.0, (len(pvalues) - rank) * pvalues[i]))
        assert found[i] == pytest.approx(level)


def test_unknown_bounds_exclude_nothing():
    assert not Interval(3.0).excludes(1)
    assert Interval(3.0, 2.0, 4.0).excludes(1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.log_ratio([1, 2, 3], [1, 2]), "cannot pair 3 rounds with 2"),
        (lambda: stats.log_ratio([], []), "at least two rounds"),
        (lambda: stats.log_ratio([1], [1]), "at least two rounds"),
        (lambda: stats.log_ratio([1, math.nan], [1, 2]), "not a number"),
        (lambda: stats.log_ratio([1, 0], [1, 2]), "above zero"),
        (lambda: stats.perplexity_ratio([1, 2], [1, 2], [3]), "cannot pair"),
        (lambda: stats.perplexity_ratio([1, 2], [1, math.inf], [3, 3]), "not a number"),
        (lambda: stats.perplexity_ratio([1, 2], [1, 2], [3, 0]), "at least one token"),
        (lambda: stats.accuracy([]), "at least one item"),
        (lambda: stats.accuracy([0.5]), "either correct"),
        (lambda: stats.accuracy([math.nan]), "either correct"),
        (lambda: stats.mcnemar([1, 0], [1]), "cannot pair 2 items with 1"),
        (lambda: stats.holm([]), "needs p-values"),
        (lambda: stats.holm([math.nan]), "needs p-values"),
    ],
)
def test_what_does_not_pair_up_is_refused(call, says):
    with pytest.raises(AllocMoEError, match=says):
        call()
