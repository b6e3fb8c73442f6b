"""Steps: a single one against brute force, the rate of false alarms, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from allocmoe.history.steps import ALPHA, RUN, SPLIT, _best, _parts, exact, noisy

few = settings(max_examples=30, deadline=None)
LEAST = math.log(1.02)


def t_statistics(values: np.ndarray) -> dict[tuple[int, int], float]:
    """|t| of every split and run, from scipy's test of two samples."""
    found = {}
    for kind in (SPLIT, RUN):
        for first, last in zip(*_parts(len(values), kind), strict=True):
            inside = np.zeros(len(values), dtype=bool)
            inside[first:last] = True
            found[int(first), int(last)] = abs(scipy_stats.ttest_ind(values[inside], values[~inside]).statistic)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_the_best_split_and_run_have_the_largest_t(seed: int):
    values = np.random.default_rng(seed).normal(size=12)
    known = t_statistics(values)
    for kind in (SPLIT, RUN):
        parts = [p for p in known if (p[1] == 12) == (kind == SPLIT)]
        assert _best(values, kind)[:2] == max(parts, key=lambda p: known[p])


def test_runs_are_those_of_two_commits_or_more_between_two_levels():
    first, last = _parts(5, RUN)
    assert set(zip(first.tolist(), last.tolist(), strict=True)) == {(1, 3), (1, 4), (2, 4)}
    assert _best(np.array([0.0, 1.0, 2.0]), RUN) == (0, 0, 1.0)


@pytest.mark.parametrize(("kind", "part"), [(SPLIT, slice(6, None)), (RUN, slice(4, 8))])
def test_p_is_the_share_of_noise_as_clear(kind: int, part: slice):
    """Against the t statistics of other normal noise; two series with a p near 0.1 in the middle of the scale."""
    rng = np.random.default_rng(11)
    values = rng.normal(size=12)
    values[part] += 2.0
    first, last, p = _best(values, kind)
    clear = t_statistics(values)[first, last]
    noise = rng.normal(size=(4000, 12))
    largest = np.zeros(4000)
    for a, b in zip(*_parts(12, kind), strict=True):
        inside = np.zeros(12, dtype=bool)
        inside[a:b] = True
        t = scipy_stats.ttest_ind(noise[:, inside], noise[:, ~inside], axis=1).statistic
        largest = np.maximum(largest, np.abs(t))
    share = float((largest >= clear).mean())
    assert p / 2 == pytest.approx(share, abs=4 * math.sqrt(share / 4000) + 0.002)


@pytest.mark.parametrize("length", [10, 20])
def test_false_alarms_are_as_rare_as_promised(length: int):
    rng = np.random.default_rng(length)
    alarms = sum(bool(noisy(rng.normal(0, 0.03, length).tolist(), LEAST)) for _ in range(2000))
    assert alarms <= scipy_stats.binom.ppf(0.999, 2000, ALPHA)
    assert alarms >= scipy_stats.binom.ppf(0.001, 2000, ALPHA / 3)


@pytest.mark.parametrize("size", [-0.2, 0.2])
@pytest.mark.parametrize("at", [1, 2, 6, 11])
def test_a_step_well_above_the_noise_is_named_exactly(at: int, size: float):
    values = np.random.default_rng(3).normal(0, 0.01, 12)
    values[at:] += size
    (step,) = noisy(values.tolist(), LEAST)
    assert step.at == at
    assert 0 < step.p <= ALPHA


def test_a_change_that_was_taken_back_is_two_steps():
    values = np.random.default_rng(4).normal(0, 0.01, 20)
    values[8:12] += 0.1
    assert [s.at for s in noisy(values.tolist(), LEAST)] == [8, 12]


def test_three_levels_are_two_steps_and_a_small_one_does_not_count():
    values = np.random.default_rng(5).normal(0, 0.001, 30)
    values[10:] += 0.1
    values[20:] += 0.015
    assert [s.at for s in noisy(values.tolist(), LEAST)] == [10]
    assert [s.at for s in noisy(values.tolist(), 0.01)] == [10, 20]


@few
@given(st.floats(-5, 5), st.integers(0, 40), st.floats(0, 1))
def test_a_constant_series_never_alarms(value: float, length: int, minimum: float):
    assert noisy([value] * length, minimum) == []
    assert exact([value] * length, minimum) == []


@few
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_a_shift_of_all_logs_does_not_matter(seed: int, shift: float):
    values = np.random.default_rng(seed).normal(0, 0.03, 15)
    values[9:] += 0.1
    before, after = noisy(values.tolist(), LEAST), noisy((values + shift).tolist(), LEAST)
    assert [s.at for s in before] == [s.at for s in after]


def test_exact_steps_are_those_beyond_the_minimum():
    assert exact([4.8, 4.8, 4.8 * 1.003], 0.002) == [(2, 0.0)]
    assert exact([4.8, 4.8 * 1.003], 0.002) == [(1, 0.0)]
    assert exact([4.8, 4.8, 4.8 * 1.001], 0.002) == []
    assert [s.at for s in exact([1, 1, 2, 1, 1], 0.002)] == [2, 3]
    assert [s.at for s in exact([0.0, 0.0, 0.5], 0.002)] == [2]


def test_a_slow_drift_is_named_where_it_has_come_far_enough():
    values = [4.8 * 1.0005**i for i in range(12)]
    first = exact(values, 0.002)[0].at
    assert values[first] / np.median(values[:first]) - 1 > 0.002
    assert values[first - 1] / np.median(values[: first - 1]) - 1 <= 0.002


@few
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_rounding_is_no_change(seed: int, length: int):
    jitter = np.random.default_rng(seed).uniform(-1e-6, 1e-6, length)
    assert exact((4.8 * (1 + jitter)).tolist(), 0.002) == []
