"""Verdicts and exit codes: what passes, what regressed, and everything that cannot be measured."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import NAME, changed, lose, measured, row, slower, verdicts, worse
from statsmodels.stats import multitest  # noqa: F401  slow to import, so not in a test

from allocmoe import stats
from allocmoe.gate import PASS, REGRESSED, UNMEASURED, compare, show

pytestmark = pytest.mark.whole

few = settings(max_examples=8, deadline=None)


def test_two_quiet_measurements_of_the_same_pass(old, new):
    found = compare(new, old)
    assert found.code == 0
    assert set(verdicts(found).values()) == {PASS, ""}
    assert [r.name for r in found.rows if not r.verdict] == ["mini/original/128/prefill", "mini/original/128/decode"]
    assert len(found.rows) == 3 * 5
    assert all(r.p_holm >= r.p for r in found.rows if math.isfinite(r.p))
    assert row(found, "mini/uniform/64/decode").new == pytest.approx(1.3, rel=0.01)
    assert row(found, "mini/original/128/decode").new == pytest.approx(400, rel=0.3)


@few
@given(st.integers(0, 50), st.sampled_from([0.001, 0.02, 0.1]), st.integers(1, 6))
@pytest.mark.whole
def test_a_measurement_against_itself_never_regresses(seed, noise, sessions):
    same = measured(seed, sessions, noise)
    found = compare(same, same)
    assert REGRESSED not in verdicts(found).values()
    assert all(r.change == 0 for r in found.rows if math.isfinite(r.change))
    assert any("same measurement" in note for note in found.notes)


@few
@given(st.integers(0, 50), st.sampled_from([0.002, 0.02]), st.lists(st.floats(0.8, 1.3), min_size=2, max_size=4))
@pytest.mark.whole
def test_a_verdict_only_gets_worse_with_a_slowdown(seed, noise, factors):
    old, new = measured(seed, 4, noise), measured(seed + 100, 4, noise)
    scale = (PASS, UNMEASURED, REGRESSED)
    found = [compare(slower(new, f), old) for f in sorted(factors)]
    for phase in ("prefill", "decode"):
        ranks = [scale.index(row(g, f"mini/uniform/64/{phase}").verdict) for g in found]
        assert ranks == sorted(ranks)


@few
@given(st.randoms(use_true_random=False), st.sampled_from([0.002, 0.05]))
@pytest.mark.whole
def test_the_order_of_records_does_not_matter(rng, noise):
    old, new = measured(0, 3, noise), slower(measured(1, 3, noise), 1.05)
    expected = show.document(compare(new, old))
    for records in (old, new):
        rng.shuffle(records)
    assert show.document(compare(new, old)) == expected


def test_a_record_twice_in_a_file_counts_once(old, new):
    assert show.document(compare(new + new, old))["rows"] == show.document(compare(new, old))["rows"]


def test_a_slowdown_is_caught_in_its_rows_alone(old, new):
    found = compare(slower(new, 1.05), old)
    assert found.code == 1
    assert {n for n, v in verdicts(found).items() if v == REGRESSED} == {
        "mini/uniform/64/prefill",
        "mini/uniform/64/decode",
    }
    assert row(found, "mini/uniform/64/decode").change == pytest.approx(5, abs=1)


def test_a_speedup_passes(old, new):
    assert compare(slower(new, 0.7), old).code == 0


def test_a_slow_machine_is_no_regression(old, new):
    """The whole measurement takes longer, the original too: the machine drifted."""
    for method in ("original", "uniform", "alloc-moe"):
        new = slower(new, 1.5, method)
    assert compare(new, old).code == 0


def test_noise_is_not_measured_and_says_how_many_sessions_would_do():
    found = compare(measured(1, 4, 0.05), measured(0, 4, 0.05))
    noisy = row(found, f"{NAME}/decode")
    assert found.code == 2
    assert noisy.verdict == UNMEASURED
    assert "too noisy to tell a change of 3 % from none with 4 sessions a side: about" in noisy.reason
    assert noisy.detectable > 3


def test_a_perplexity_that_rose_is_caught(old, new):
    found = compare(worse(new, samples=lambda s: s | {"nll": [x + 0.02 for x in s["nll"]]}), old)
    caught = row(found, f"{NAME}/perplexity")
    assert (found.code, caught.verdict) == (1, REGRESSED)
    assert caught.change == pytest.approx(100 * math.expm1(0.02), abs=0.01)
    assert caught.low <= caught.change <= caught.high


def test_a_small_significant_rise_below_the_margin_passes(old, new):
    found = compare(worse(new, samples=lambda s: s | {"nll": [x + 0.004 for x in s["nll"]]}), old)
    passed = row(found, f"{NAME}/perplexity")
    assert passed.p_holm < 0.001
    assert passed.verdict == PASS


def test_lost_items_are_caught(old, new):
    lost = worse(new, samples=lambda s: lose(s, 12))
    found = compare(lost, old)
    caught = row(found, f"{NAME}/accuracy")
    assert (found.code, caught.verdict) == (1, REGRESSED)
    assert caught.change == pytest.approx(2.0)
    answers = [next(r for r in side if (r.about, r.method) == ("quality", "alloc-moe")) for side in (lost, old)]
    shift = stats.group_loss(*(r.samples["tasks"] for r in answers), [["add", "cloze"]])
    assert (caught.low, caught.high, caught.p) == (100 * shift.low, 100 * shift.high, shift.p)
    assert caught.p == 0.5**12, "as McNemar's, where all tasks have as many items"
    assert caught.low < 100 * stats.tango(12, 0, 600)[0] < 2


def test_a_group_of_one_task_counts_as_much_as_one_of_two(old, new):
    """Twelve items of one task of three hundred are 4 points of it: half of that, a quarter, or nothing."""
    for named, change in (
        ({"a": ["add"], "b": ["cloze"]}, 2.0), ({"a": ["add", "cloze"], "b": ["more"]}, 1.0), ({"b": ["cloze"]}, 0.0),
    ):  # fmt: skip

        def grouped(records: list) -> list:
            more = changed(records, "quality", details={"groups": named})  # noqa: B023
            return changed(more, "quality", samples=lambda s: s | {"tasks": s["tasks"] | {"more": s["tasks"]["cloze"]}})

        found = compare(grouped(worse(new, samples=lambda s: lose(s, 12))), grouped(old))
        assert row(found, f"{NAME}/accuracy").change == pytest.approx(change)
    other = changed(old, "quality", details={"groups": {"a": ["add"]}})
    assert "different groups" in row(compare(new, other), f"{NAME}/accuracy").reason


def test_scores_within_0_and_1_are_compared_as_they_are(old, new):
    """A worsening that rounding to right or wrong would hide."""

    def scored(lost: float):
        def change(samples: dict) -> dict:
            ids = samples["tasks"]["add"]["ids"]
            scores = [0.9 - 0.3 * (i % 7) / 7 - lost * (1 + i % 3) / 2 for i in range(len(ids))]
            return samples | {"tasks": samples["tasks"] | {"add": {"ids": ids, "score": scores}}}

        return change

    before = changed(old, "quality", samples=scored(0.0))
    found = compare(worse(changed(new, "quality", samples=scored(0.0)), samples=scored(0.05)), before)
    caught = row(found, f"{NAME}/accuracy")
    assert caught.change == pytest.approx(2.5)
    assert (caught.verdict, row(found, "mini/uniform/64/accuracy").verdict) == (REGRESSED, PASS)
    assert "one has scores" in row(compare(new, before), f"{NAME}/accuracy").reason


def test_one_lost_item_of_few_is_not_measured(old, new):
    """A bootstrap would have a width of zero for no item lost, and pass."""

    def first(samples: dict) -> dict:
        cut = {n: {k: v[:20] for k, v in task.items()} for n, task in samples["tasks"].items()}
        return samples | {"tasks": cut}

    few_old, few_new = changed(old, "quality", samples=first), changed(new, "quality", samples=first)
    found = row(compare(few_new, few_old), f"{NAME}/accuracy")
    assert found.verdict == UNMEASURED
    assert "with 40 items: about 268 would do" in found.reason


@pytest.mark.parametrize(("factor", "expected"), [(1.009, PASS), (1.011, REGRESSED), (0.5, PASS)])
def test_activations_are_compared_as_counted(old, new, factor, expected):
    found = compare(worse(new, spent=lambda s: {"per_token": factor * s["per_token"]}), old)
    assert row(found, f"{NAME}/activations").verdict == expected
    assert found.code == (expected == REGRESSED)


def test_a_plan_that_is_ignored_is_caught(old, new):
    """Quality gets better, so only the activations tell."""
    better = next(r for r in new if r.about == "quality" and r.method == "original")
    found = compare(worse(new, spent=better.spent, samples=better.samples, metrics=better.metrics), old)
    assert row(found, f"{NAME}/activations").verdict == REGRESSED


def test_activations_of_a_model_with_speed_alone(old, new):
    old, new = ([r for r in side if r.about == "speed"] for side in (old, new))
    assert row(compare(new, old), f"{NAME}/activations").verdict == PASS
    found = compare(worse(new, "speed", spent={"per_token": 128.0}), old)
    assert row(found, f"{NAME}/activations").verdict == REGRESSED


def test_a_regression_outweighs_what_could_not_be_measured(old, new):
    found = compare(slower([r for r in new if r.method != "alloc-moe"], 1.1), old)
    assert {REGRESSED, UNMEASURED} <= set(verdicts(found).values())
    assert found.code == 1


@pytest.mark.whole
def test_many_quiet_rows_make_a_lone_weak_sign_no_regression():
    """Holm: what is significant alone is not among all rows."""
    old, new = measured(0, 5, 0.01), slower(measured(1, 5, 0.01), 1.02)
    alone = [[r for r in side if r.about == "speed" and r.method in ("original", "uniform")] for side in (new, old)]
    for row_ in compare(new, old).rows:
        if math.isfinite(row_.p):
            same = next((r for r in compare(*alone).rows if r.key == row_.key), row_)
            assert row_.p == same.p
            assert row_.p_holm >= same.p_holm


def test_the_table_and_the_page_hold_every_row(old, new):
    found = compare(slower(new, 1.05), old)
    text, page = show.text(found), show.markdown(found)
    for r in found.rows:
        assert f"\n{r.name} " in text
        assert f"\n| {r.name} |" in page
    assert text.splitlines()[-1] == "gate: regressed (11 pass, 2 regressed)"
    assert page.startswith("### Gate: regressed")
    caught = next(line for line in text.splitlines() if line.startswith("mini/uniform/64/decode"))
    assert caught.endswith("regressed")
    assert "1.297x     1.238x     +4.83 %" in caught
    quiet = next(line for line in text.splitlines() if line.startswith("mini/alloc-moe/64/accuracy"))
    assert " ~ " in quiet
    assert len({len(line.split("|")) for line in page.splitlines() if line.startswith("|")}) == 1


def test_json_is_json(old, new):
    document = json.loads(json.dumps(show.document(compare(new, old)), allow_nan=False))
    assert document["code"] == 0
    assert {r["verdict"] for r in document["rows"]} == {PASS, ""}
    one = next(r for r in document["rows"] if r["row"] == f"{NAME}/decode")
    assert one["low"] < one["change"] < one["high"] < one["margin"] == 3
    assert one["unit"] == "%"
