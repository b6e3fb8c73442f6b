"""The sign-flip test against every way the signs can fall, and against draws of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from allocmoe.stats import sign_flip

few = settings(max_examples=60, deadline=None)
sizes = st.lists(st.sampled_from([0.1, 0.2, 0.3, 1 / 7, 1.0]), min_size=1, max_size=11)


def by_enumeration(values: np.ndarray, total: float) -> float:
    sums = np.array(list(itertools.product((-1, 1), repeat=len(values)))) @ values
    return float((sums >= total - 1e-9).mean())


@few
@given(sizes, st.data())
def test_tail_is_the_share_of_all_signs(values, data):
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(values), max_size=len(values)))
    seen = np.array(values)
    total = float(seen @ np.array(signs))
    assert sign_flip.tail(seen, total) == pytest.approx(by_enumeration(seen, total), rel=1e-9)


@few
@given(st.integers(1, 400), st.data())
def test_of_one_size_it_is_the_binomial_tail(count, data):
    plus = data.draw(st.integers(0, count))
    exact = scipy_stats.binomtest(plus, count, alternative="greater").pvalue
    assert sign_flip.tail(np.full(count, 1 / 450), (2 * plus - count) / 450) == pytest.approx(exact, rel=1e-9)


def test_nothing_that_differs_is_no_sign_of_a_loss():
    assert sign_flip.tail(np.array([]), 0.0) == 1
    assert sign_flip.tail(np.array([1.0]), 1.0) == 0.5
    assert sign_flip.tail(np.array([1.0]), -1.0) == 1


@pytest.mark.parametrize("count", [41, 300])
@pytest.mark.parametrize("deviations", [-1.0, 0.0, 0.3, 1.0, 2.0, 3.0])
def test_of_too_many_it_is_what_random_signs_say(count, deviations):
    rng = np.random.default_rng(count)
    values, draws = rng.uniform(0.01, 1, count), 200_000
    total = deviations * float(np.sqrt((values**2).sum()))
    share = float(((rng.integers(0, 2, (draws, count), dtype=np.int8) * 2 - 1) @ values >= total).mean())
    found = sign_flip.tail(values, total)
    assert abs(found - share) < 4 * np.sqrt(found * (1 - found) / draws)


def test_a_tail_far_out_is_as_small_as_it_should_be():
    """Against the exact one of as many as can be listed: no floor that draws would set."""
    rng = np.random.default_rng(5)
    values = rng.uniform(0.1, 1, 38)
    total = 4.5 * float(np.sqrt((values**2).sum()))
    exact = sign_flip.tail(values, total)
    assert exact < 1e-6
    assert sign_flip._saddlepoint(values, np.ones(38, dtype=int), total) == pytest.approx(exact, rel=0.05)


def test_of_few_sizes_and_too_many_sums_it_is_near_the_exact_one():
    values, counts = np.array([1.0, 2.0, 3.0, 5.0]), np.array([200, 150, 100, 100])
    for total in (60.0, 100.0, 200.0):
        exact = sign_flip.tail(np.repeat(values, counts), total)
        assert sign_flip._saddlepoint(values, counts, total) == pytest.approx(exact, rel=0.08)


def test_all_signs_plus():
    values = np.linspace(0.5, 1, 60)
    assert sign_flip.tail(values, float(values.sum())) == pytest.approx(0.5**60, rel=0.2)
