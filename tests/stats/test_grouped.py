"""Accuracies of groups of tasks: against brute force, numeric likelihoods, one task, and simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats import contingency_tables, proportion  # noqa: F401  slow to import, so not in a test

from allocmoe import stats
from allocmoe.errors import AllocMoEError

few = settings(max_examples=30, deadline=None)
Z = scipy_stats.norm.ppf(0.95)
GROUPS = [["a", "b"], ["c"]]
WEIGHTS = {"a": 0.25, "b": 0.25, "c": 0.5}


def tasks(**correct: list[int]) -> dict:
    return {name: {"ids": [f"{name}/{i}" for i in range(len(c))], "correct": c} for name, c in correct.items()}


def test_group_accuracy_of_one_task_is_its_accuracy():
    correct = [1, 0, 1, 1, 0, 1]
    assert stats.group_accuracy(tasks(a=correct), [["a"]]) == pytest.approx(stats.accuracy(correct))


def test_group_accuracy_averages_tasks_within_groups_and_then_groups():
    data = tasks(a=[1] * 10, b=[0] * 10, c=[1, 0] * 10)
    found = stats.group_accuracy(data, [["a", "b"], ["c"]])
    assert found.estimate == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    parts = [stats.accuracy(data[t]["correct"]) for t in "abc"]
    below = sum((w * (p.estimate - p.low)) ** 2 for w, p in zip((0.25, 0.25, 0.5), parts, strict=True))
    assert found.low == pytest.approx(0.5 - math.sqrt(below))


def test_group_difference_is_the_stratified_paired_bootstrap():
    rng = np.random.default_rng(3)
    sizes = {"a": 60, "b": 120, "c": 40}
    first = {t: rng.integers(0, 2, n) for t, n in sizes.items()}
    second = {t: np.where(rng.uniform(size=n) < 0.7, first[t], rng.integers(0, 2, n)) for t, n in sizes.items()}
    a, b = (tasks(**{t: c.tolist() for t, c in x.items()}) for x in (first, second))
    weights = {"a": 0.25, "b": 0.25, "c": 0.5}
    found = stats.group_difference(a, b, [["a", "b"], ["c"]], resamples=20000)
    gaps = {t: first[t] - second[t] for t in sizes}
    assert found.estimate == pytest.approx(sum(weights[t] * gaps[t].mean() for t in sizes))
    drawn = sum(weights[t] * gaps[t][rng.integers(0, n, (20000, n))].mean(1) for t, n in sizes.items())
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    assert stats.group_difference(b, a, [["a", "b"], ["c"]]).estimate == pytest.approx(-found.estimate)


def test_a_method_does_not_differ_from_itself():
    data = tasks(a=[1, 0, 1], b=[0, 0, 1])
    assert stats.group_difference(data, data, [["a", "b"]]) == (0, 0, 0)
    assert stats.group_test(data, data, [["a", "b"]]) == 1


def scored(**score: Any) -> dict:
    return {name: {"ids": list(range(len(s))), "score": np.asarray(s).tolist()} for name, s in score.items()}


def outcomes(lost: int, won: int, n: int) -> tuple[list[int], list[int]]:
    """Results (new, old) of n items."""
    old = [1] * lost + [0] * won + [1] * (n - lost - won)
    return [1 - o for o in old[: lost + won]] + old[lost + won :], old


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(4, 200))
    lost = draw(st.integers(0, n // 2))
    return lost, draw(st.integers(0, min(8, n - lost))), n


@few
@given(tables())
def test_one_task_is_accuracy_loss(table):
    new, old = outcomes(*table)
    found, known = stats.group_loss(tasks(a=new), tasks(a=old), [["a"]]), stats.accuracy_loss(new, old)
    for name in ("estimate", "p", "error", "critical", "freedom", "count", "grain"):
        assert getattr(found, name) == pytest.approx(getattr(known, name), rel=1e-9), name
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-8)
    assert stats.group_test(tasks(a=new), tasks(a=old), [["a"]]) == pytest.approx(stats.mcnemar(new, old))


@few
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=3, max_size=3))
def test_p_counts_every_way_the_items_that_differ_can_fall(pairs):
    sizes = dict(zip("abc", (6, 9, 7), strict=True))
    results = {t: outcomes(*pair, sizes[t]) for t, pair in zip("abc", pairs, strict=True)}
    new, old = (tasks(**{t: r[side] for t, r in results.items()}) for side in (0, 1))
    signed = [s * WEIGHTS[t] / sizes[t] for t, (b, c) in zip("abc", pairs, strict=True) for s in [1] * b + [-1] * c]
    total = sum(signed)
    falls = [sum(s * abs(v) for s, v in zip(f, signed, strict=True))
             for f in itertools.product((-1, 1), repeat=len(signed))]  # fmt: skip
    found = stats.group_loss(new, old, GROUPS)
    assert found.estimate == pytest.approx(total)
    assert found.p == pytest.approx(np.mean([f >= total - 1e-9 for f in falls]))
    assert stats.group_test(new, old, GROUPS) == pytest.approx(np.mean([abs(f) >= abs(total) - 1e-9 for f in falls]))
    assert stats.group_test(old, new, GROUPS) == stats.group_test(new, old, GROUPS)


def variance(b: int, c: int, n: int, d: float) -> float:
    """n times the variance under a difference d, its nuisance parameter by a numeric maximum likelihood."""

    def minus_log_likelihood(q: float) -> float:
        parts = ((b, q + d), (c, q), (n - b - c, 1 - 2 * q - d))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    low, high = max(0.0, -d), (1 - d) / 2
    q = optimize.minimize_scalar(minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    q = min((q, low, high), key=minus_log_likelihood)
    return 2 * q + d - d * d


@pytest.mark.parametrize("counts", [((3, 1, 40), (0, 2, 60), (5, 0, 80)), ((0, 0, 40), (0, 0, 60), (4, 4, 80))])
def test_bounds_are_where_an_equal_move_of_every_task_is_z_standard_errors(counts):
    results = {t: outcomes(*c) for t, c in zip("abc", counts, strict=True)}
    new, old = (tasks(**{t: r[side] for t, r in results.items()}) for side in (0, 1))
    found = stats.group_loss(new, old, GROUPS)
    for bound, side in ((found.low, -1), (found.high, 1)):
        move = bound - found.estimate
        whole = sum(
            WEIGHTS[t] ** 2 / n * variance(b, c, n, (b - c) / n + move)
            for t, (b, c, n) in zip("abc", counts, strict=True)
        )
        assert move / math.sqrt(whole) == pytest.approx(side * Z, abs=5e-3)


def test_where_no_item_differs_there_is_a_width_and_equal_tasks_are_as_good_as_one():
    nine = tasks(**{f"t{i}": [1] * 50 for i in range(9)})
    groups = [[f"t{i}" for i in range(j, j + 3)] for j in (0, 3, 6)]
    found = stats.group_loss(nine, nine, groups)
    assert (found.estimate, found.p) == (0, 1)
    assert (found.low, found.high) == pytest.approx(stats.tango(0, 0, 450), abs=1e-8)
    assert found.needed(0.01) == stats.accuracy_loss([1] * 450, [1] * 450).needed(0.01)
    assert found.detectable(0.01) == pytest.approx(stats.accuracy_loss([1] * 450, [1] * 450).detectable(0.01))
    small = tasks(a=[1] * 10, b=[1] * 10, c=[1] * 400)
    assert stats.group_loss(small, small, GROUPS).high > 0.03, "a task of ten items weighs a quarter"
    assert stats.group_loss(small, small, GROUPS).needed(0.01) > 420


@pytest.mark.parametrize("worse", [(0.02, 0.02, 0.02), (0.0, 0.0, 0.05), (0.1, 0.0, 0.0)])
def test_bounds_cover_and_the_test_errs_as_often_as_they_say(worse):
    rng, sizes, draws = np.random.default_rng(0), dict(zip("abc", (60, 150, 100), strict=True)), 500
    truth, level = sum(WEIGHTS[t] * w for t, w in zip("abc", worse, strict=True)), []
    below = above = 0
    for _ in range(draws):
        results, null = {}, {}
        for (t, n), w in zip(sizes.items(), worse, strict=True):
            lost, won, _ = rng.multinomial(n, [0.02 + w, 0.02, 0.96 - w])
            results[t] = outcomes(lost, won, n)
            null[t] = outcomes(*rng.multinomial(n, [0.03, 0.03, 0.94])[:2], n)
        new, old = (tasks(**{t: r[side] for t, r in results.items()}) for side in (0, 1))
        found = stats.group_loss(new, old, GROUPS)
        below += found.low <= truth
        above += found.high >= truth
        new, old = (tasks(**{t: r[side] for t, r in null.items()}) for side in (0, 1))
        level.append(stats.group_loss(new, old, GROUPS).p <= 0.05)
    assert below / draws > 0.92
    assert above / draws > 0.92
    assert 0.01 < np.mean(level) < 0.08


def test_what_is_detectable_is_reported_nine_times_in_ten():
    rng, sizes = np.random.default_rng(1), dict(zip("abc", (300, 500, 400), strict=True))
    alike = tasks(**{t: [1] * n for t, n in sizes.items()})
    worse = stats.group_loss(alike, alike, GROUPS).detectable(0.001)
    reported = 0
    for _ in range(300):
        new = tasks(**{t: (rng.uniform(size=n) >= worse).astype(int).tolist() for t, n in sizes.items()})
        reported += stats.group_loss(new, alike, GROUPS).p <= 0.05
    assert 0.82 < reported / 300 <= 0.98


def test_scores_of_one_task_are_a_paired_t_interval_and_a_sign_flip_test():
    rng = np.random.default_rng(2)
    old = rng.uniform(0.2, 0.8, 14)
    new = old - rng.normal(0.02, 0.03, 14)
    found = stats.group_loss(scored(a=new), scored(a=old), [["a"]])
    oracle = scipy_stats.ttest_rel(old, new)
    assert found.estimate == pytest.approx((old - new).mean())
    bounds = [found.estimate + side * scipy_stats.t.ppf(0.95, 13) * scipy_stats.sem(old - new) for side in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(bounds, abs=1e-9)
    flips = np.array(list(itertools.product((-1, 1), repeat=14))) @ np.abs(old - new)
    assert found.p == pytest.approx(float((flips >= (old - new).sum() - 1e-12).mean()))
    assert found.p == pytest.approx(oracle.pvalue / 2, abs=0.02)
    permuted = scipy_stats.permutation_test((old, new), lambda x, y: np.mean(x - y), permutation_type="samples",
                                            alternative="greater", n_resamples=np.inf)  # fmt: skip
    assert found.p == pytest.approx(permuted.pvalue)


def test_scores_that_do_not_differ_have_a_width_too():
    same = scored(a=[0.5] * 100)
    found = stats.group_loss(same, same, [["a"]])
    assert found.p == 1
    assert found.high == pytest.approx(Z * Z / 100, abs=1e-6)
    assert found.needed(0.01) > 100


def test_scores_and_right_or_wrong_items_share_a_mean():
    rng = np.random.default_rng(3)
    a, b = rng.uniform(size=40), rng.uniform(size=40)
    first, second = scored(a=a) | tasks(b=[1] * 30, c=[1, 0]), scored(a=b) | tasks(b=[1] * 20 + [0] * 10, c=[1, 1])
    expected = 0.25 * (a - b).mean() + 0.25 / 3 - 0.5 * 0.5
    assert stats.group_difference(first, second, GROUPS).estimate == pytest.approx(expected)
    assert stats.group_loss(second, first, GROUPS).estimate == pytest.approx(expected)
    assert stats.group_mean(first, GROUPS) == pytest.approx(0.25 * a.mean() + 0.25 + 0.25)
    assert stats.group_accuracy(first, GROUPS).estimate == pytest.approx(stats.group_mean(first, GROUPS))


def test_a_bootstrap_of_scores_draws_items():
    rng = np.random.default_rng(4)
    a, b = rng.uniform(size=80), rng.uniform(size=80)
    found = stats.group_difference(scored(a=a), scored(a=b), [["a"]], resamples=20000)
    drawn = (a - b)[rng.integers(0, 80, (20000, 80))].mean(axis=1)
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.005)


def test_a_score_counts_where_a_rounded_answer_stands_beside_it():
    both = {"a": {"ids": [1, 2], "correct": [1, 0], "score": [0.75, 0.25 + 0.125]}}
    assert stats.group_mean(both, [["a"]]) == 0.5625


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.group_accuracy({}, [["a"]]), "no per-item results of a"),
        (lambda: stats.group_accuracy({}, []), "at least one task"),
        (lambda: stats.group_difference(tasks(a=[1]), tasks(a=[1]), [[]]), "at least one task"),
        (lambda: stats.group_difference(tasks(a=[1]), tasks(a=[1, 0]), [["a"]]), "different items of a"),
        (lambda: stats.group_loss({"a": {"ids": ["1"], "correct": [1, 0]}}, tasks(a=[1]), [["a"]]), "different items"),
        (lambda: stats.group_loss(*[{"a": {"ids": ["1"], "correct": [1, 0]}}] * 2, [["a"]]), "1 items, but 2 and 2"),
        (lambda: stats.group_loss(tasks(a=[0.5]), tasks(a=[1]), [["a"]]), "either correct"),
        (lambda: stats.group_mean(scored(a=[1.5]), [["a"]]), "not within 0..1"),
        (lambda: stats.group_mean(scored(a=[math.nan]), [["a"]]), "not within 0..1"),
        (lambda: stats.group_mean(scored(a=[]), [["a"]]), "at least one item"),
        (lambda: stats.group_loss(scored(a=[1.0]) | {}, {"a": {"ids": [0], "correct": [1]}}, [["a"]]), "has scores"),
    ],
)
def test_what_does_not_pair_up_is_refused(call, says):
    with pytest.raises(AllocMoEError, match=says):
        call()


def test_a_long_name_does_not_make_a_long_message():
    with pytest.raises(AllocMoEError) as caught:
        stats.group_mean({}, [["x" * 100_000]])
    assert len(str(caught.value)) < 200
