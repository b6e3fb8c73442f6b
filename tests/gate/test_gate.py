"""Verdicts and exit codes: what passes, what regressed, and everything that cannot be measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import COMMIT, ENVIRONMENT, changed, measured, slower
from statsmodels.stats import multitest  # noqa: F401  slow to import, so not in a test

from allocmoe import gate, stats
from allocmoe.errors import AllocMoEError
from allocmoe.gate import NEW, PASS, REGRESSED, UNMEASURED, compare, show
from allocmoe.records import Record

few = settings(max_examples=8, deadline=None)
NAME = "mini/alloc-moe/64"


@pytest.fixture(scope="module")
def old() -> list[Record]:
    return measured(0)


@pytest.fixture(scope="module")
def new() -> list[Record]:
    return measured(1)


def verdicts(found: gate.Gate) -> dict[str, str]:
    return {row.name: row.verdict for row in found.rows}


def row(found: gate.Gate, name: str) -> gate.Row:
    return next(r for r in found.rows if r.name == name)


def worse(records: list[Record], about: str = "quality", method: str = "alloc-moe", **parts: object) -> list[Record]:
    return [changed([r], about, **parts)[0] if r.method == method else r for r in records]


def lose(samples: dict, items: int) -> dict:
    correct = list(samples["tasks"]["add"]["correct"])
    for i in [i for i, right in enumerate(correct) if right][:items]:
        correct[i] = 0
    return samples | {"tasks": samples["tasks"] | {"add": samples["tasks"]["add"] | {"correct": correct}}}


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
def test_a_measurement_against_itself_never_regresses(seed, noise, sessions):
    same = measured(seed, sessions, noise)
    found = compare(same, same)
    assert REGRESSED not in verdicts(found).values()
    assert all(r.change == 0 for r in found.rows if math.isfinite(r.change))
    assert any("same measurement" in note for note in found.notes)


@few
@given(st.integers(0, 50), st.sampled_from([0.002, 0.02]), st.lists(st.floats(0.8, 1.3), min_size=2, max_size=4))
def test_a_verdict_only_gets_worse_with_a_slowdown(seed, noise, factors):
    old, new = measured(seed, 4, noise), measured(seed + 100, 4, noise)
    scale = (PASS, UNMEASURED, REGRESSED)
    found = [compare(slower(new, f), old) for f in sorted(factors)]
    for phase in ("prefill", "decode"):
        ranks = [scale.index(row(g, f"mini/uniform/64/{phase}").verdict) for g in found]
        assert ranks == sorted(ranks)


@few
@given(st.randoms(use_true_random=False), st.sampled_from([0.002, 0.05]))
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
    found = compare(worse(new, samples=lambda s: lose(s, 12)), old)
    caught = row(found, f"{NAME}/accuracy")
    assert (found.code, caught.verdict) == (1, REGRESSED)
    assert caught.change == pytest.approx(2.0)
    assert (caught.low, caught.high) == tuple(100 * x for x in stats.tango(12, 0, 600))


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


def machine(**values: object) -> dict:
    return ENVIRONMENT | values


QUALITY, SPEED, EVERY = ("perplexity", "accuracy"), ("prefill", "decode"), gate.METRICS
REFUSED = {
    "other weights": ("quality", {"fingerprint": "0" * 16}, (*QUALITY, "activations"), "different weights"),
    "other text": ("quality", {"setup": lambda s: s | {"text": "news"}}, QUALITY, 'text "stories" against "news"'),
    "other windows": ("quality", {"setup": lambda s: s | {"windows": 64}}, QUALITY, "windows 32 against 64"),
    "other items": ("quality", {"setup": lambda s: s | {"tasks": {"add": 9}}}, QUALITY, "different setup: tasks"),
    "other protocol": ("speed", {"setup": lambda s: s | {"batch": 1}}, SPEED, "batch 8 against 1"),
    "other processor": ("speed", {"environment": machine(processor="new")}, SPEED, 'processor "some" against "new"'),
    "other cores": ("quality", {"environment": machine(cores=2)}, QUALITY, "different machine: cores 8 against 2"),
    "other threads": ("speed", {"environment": machine(threads=1)}, SPEED, "threads"),
    "a gpu": ("speed", {"environment": machine(gpu="H")}, SPEED, 'gpu null against "H"'),
    "other driver": ("quality", {"environment": machine(driver="1")}, QUALITY, "driver"),
    "other torch": (
        "quality", {"environment": machine(versions=ENVIRONMENT["versions"] | {"torch": "3"})}, QUALITY, "torch",
    ),
    "vllm": (
        "speed", {"environment": machine(versions=ENVIRONMENT["versions"] | {"vllm": "1"})}, SPEED, "vllm",
    ),
    "no machine": ("quality", {"environment": {"commit": COMMIT}}, QUALITY, "does not say on which machine"),
    "other ids": (
        "quality",
        {"samples": lambda s: s | {"tasks": {t: v | {"ids": v["ids"][::-1]} for t, v in s["tasks"].items()}}},
        ("accuracy",), "different items of add",
    ),
    "other tasks": (
        "quality", {"samples": lambda s: s | {"tasks": {"add": s["tasks"]["add"]}}}, ("accuracy",), "different tasks",
    ),
    "other window lengths": (
        "quality", {"samples": lambda s: s | {"window_tokens": [9] * 32}}, ("perplexity",), "different windows",
    ),
    "fewer losses": ("quality", {"samples": lambda s: s | {"nll": s["nll"][:9]}}, ("perplexity",), "cannot pair"),
    "no losses": (
        "quality", {"samples": lambda s: {k: v for k, v in s.items() if k != "nll"}}, ("perplexity",), "lacks",
    ),
    "words for losses": ("quality", {"samples": lambda s: s | {"nll": ["a"] * 32}}, ("perplexity",), "malformed"),
    "times of zero": ("speed", {"samples": {"prefill_s": [0.0] * 8, "decode_s": [0.0] * 8}}, SPEED, "above zero"),
    "one round": ("speed", {"samples": {"prefill_s": [1.0], "decode_s": [1.0]}}, SPEED, "at least two rounds"),
    "no rounds": ("speed", {"samples": {}}, SPEED, "lacks the samples"),
    "one session": ("speed", {"setup": lambda s: s | {"session": "one"}}, SPEED, "two sessions or more a side, got 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("swap", [False, True])
def test_what_does_not_pair_up_is_never_a_pass(old, new, name, swap):
    about, parts, metrics, says = REFUSED[name]
    other = changed(new, about, **parts)
    found = compare(old, other) if swap else compare(other, old)
    assert found.code == 2
    for metric in metrics:
        refused = row(found, f"{NAME}/{metric}")
        assert refused.verdict == UNMEASURED
        if not swap:
            assert says in refused.reason
        assert math.isnan(refused.change)
        assert "\n" not in show.line(refused)


def test_the_version_of_allocmoe_and_the_commit_do_not_count(old, new):
    environment = machine(versions=ENVIRONMENT["versions"] | {"allocmoe": "9"}, commit=COMMIT | {"hash": "b" * 40})
    assert compare([replace(r, environment=environment) for r in new], old).code == 0


def test_a_new_file_that_mixes_commits_is_not_measured(old, new):
    other = machine(commit=COMMIT | {"hash": "b" * 40})
    found = compare([replace(new[0], environment=other), *new[1:]], old)
    assert found.code == 2
    assert set(verdicts(found).values()) == {UNMEASURED}
    assert all("mixes commits: aaaaaaaaaa, bbbbbbbbbb" in r.reason for r in found.rows)
    lost = worse(new, spent={"per_token": 128.0})
    assert compare([replace(lost[0], environment=machine(commit=None)), *lost[1:]], old).code == 2
    assert compare([*new, replace(new[0], about="profile", environment=other)], old).code == 0, "a profile is not gated"


def test_a_dirty_or_unknown_commit_is_a_note(old, new):
    dirty = compare([replace(r, environment=machine(commit=COMMIT | {"dirty": True})) for r in new], old)
    assert dirty.code == 0
    assert any("new: commit aaaaaaaaaa+, with uncommitted changes" in n for n in dirty.notes)
    unknown = compare([replace(r, environment=machine(commit=None)) for r in new], old)
    assert unknown.code == 0
    assert "new: commit not known" in unknown.notes


def test_across_machines_quality_is_compared_and_speed_is_not(old, new):
    moved = [replace(r, environment=machine(processor="new")) for r in new]
    found = compare(moved, old, across_machines=True)
    assert row(found, f"{NAME}/perplexity").verdict == PASS
    assert row(found, f"{NAME}/activations").verdict == PASS
    assert row(found, f"{NAME}/decode").verdict == UNMEASURED
    assert row(found, "mini/original/128/decode").verdict == UNMEASURED
    assert any("across machines: processor" in note for note in found.notes)
    assert {v for n, v in verdicts(compare(moved, old)).items()} == {UNMEASURED}


def test_several_setups_in_a_file_are_ambiguous(old, new):
    other = changed(new, "quality", setup=lambda s: s | {"seed": 1})
    assert "under several setups: seed 0 against 1" in row(compare(new + other, old), f"{NAME}/accuracy").reason
    assert "the baseline holds it" in row(compare(new, old + other), f"{NAME}/accuracy").reason


def test_two_engines_in_a_file_have_rows_of_their_own(old, new):
    def there(records: list[Record]) -> list[Record]:
        return changed(
            [r for r in records if r.about == "speed"],
            "speed",
            setup=lambda s: s | {"engine": "vllm", "session": f"v{s['session']}"},
        )

    found = compare(new + slower(there(new), 1.5, "alloc-moe"), old + there(old))
    assert row(found, f"{NAME}/decode").verdict == PASS
    assert row(found, "mini@vllm/alloc-moe/64/decode").verdict == REGRESSED
    assert compare(new + there(new), old + there(old)).code == 0
    assert row(compare(new, old + there(old)), "mini@vllm/alloc-moe/64/decode").reason == "not measured"


def test_the_last_of_two_measurements_of_the_same_counts(old, new):
    later = changed(new, "quality", created="2027-01-01T00:00:00+00:00")
    later = worse(later, samples=lambda s: lose(s, 100))
    assert row(compare([*later, *new], old), f"{NAME}/accuracy").verdict == REGRESSED
    assert row(compare(new, [*later, *old]), f"{NAME}/accuracy").verdict == PASS


def test_a_session_cut_short_is_left_out(old, new):
    """The last session has only its original: an interruption."""
    assert compare([*new[:-2]], old).code == 0


def test_rows_of_one_side(old, new):
    only = [r for r in new if r.method != "alloc-moe"]
    missing = compare(only, old)
    assert missing.code == 2
    assert row(missing, f"{NAME}/decode").reason == "not measured"
    added = compare(new, [r for r in old if r.method != "alloc-moe"])
    assert added.code == 0
    assert row(added, f"{NAME}/decode").verdict == NEW
    assert row(added, f"{NAME}/decode").new == pytest.approx(1.2, rel=0.02)


def test_nothing_is_never_a_pass(old):
    for a, b in (([], old), (old, []), ([], [])):
        assert compare(a, b).code == 2
    assert "no row was compared" in show.text(compare([], []))


def test_margins(old, new):
    slow = slower(new, 1.05)
    assert compare(slow, old, {"prefill": 10, "decode": 10}).code == 0
    assert compare(new, old, {"decode": 0.01}).code == 2
    for bad in ({"decode": 0}, {"decode": -1}, {"decode": math.nan}, {"decode": math.inf}, {"speed": 1}):
        with pytest.raises(AllocMoEError, match="no margin"):
            compare(new, old, bad)


@pytest.mark.parametrize(
    ("name", "limit", "code"),
    [
        (f"{NAME}/perplexity", 1000, 0), (f"{NAME}/perplexity", 1.0, 1), (f"{NAME}/accuracy", 0.1, 0),
        (f"{NAME}/accuracy", 0.99, 1), (f"{NAME}/decode", 1.1, 0), (f"{NAME}/decode", 1.25, 1),
        (f"{NAME}/prefill", 1.25, 1), ("mini/lexi/64/decode", 1.0, 2), ("mini/original/128/decode", 1.0, 2),
    ],
)  # fmt: skip
def test_floors_hold_whatever_the_baseline(old, new, name, limit, code):
    found = compare(new, old, floors={name: limit})
    assert found.code == code
    assert row(found, name).verdict == {0: PASS, 1: REGRESSED, 2: UNMEASURED}[code]
    if code:
        assert "floor" in row(found, name).reason
    without = compare(new, [r for r in old if r.method != "alloc-moe"], floors={name: limit})
    assert without.code == code, "a row without a baseline has a floor too"


def test_a_floor_of_what_is_not_comparable_still_holds(old, new):
    moved = [replace(r, environment=machine(processor="new")) for r in new]
    found = compare(moved, old, floors={f"{NAME}/accuracy": 0.99, f"{NAME}/perplexity": 1000.0})
    assert found.code == 1
    assert row(found, f"{NAME}/accuracy").verdict == REGRESSED
    assert row(found, f"{NAME}/perplexity").verdict == UNMEASURED


def test_a_regression_outweighs_what_could_not_be_measured(old, new):
    found = compare(slower([r for r in new if r.method != "alloc-moe"], 1.1), old)
    assert {REGRESSED, UNMEASURED} <= set(verdicts(found).values())
    assert found.code == 1


def test_many_quiet_rows_make_a_lone_weak_sign_no_regression():
    """Holm: what is significant alone is not among all rows."""
    old, new = measured(0, 5, 0.01), slower(measured(1, 5, 0.01), 1.02)
    alone = [[r for r in side if r.about == "speed" and r.method in ("original", "uniform")] for side in (new, old)]
    for row_ in compare(new, old).rows:
        if math.isfinite(row_.p):
            same = next((r for r in compare(*alone).rows if r.key == row_.key), row_)
            assert row_.p == same.p
            assert row_.p_holm >= same.p_holm


def test_floors_file(tmp_path):
    path = tmp_path / "floors.json"
    rows = {"mini-olmoe/alloc-moe/64/perplexity": 6.4, "a/b (random weights)/lexi/8/decode": 1}
    path.write_text(json.dumps({"kind": "allocmoe.floors", "version": 1, "rows": rows}))
    assert gate.load_floors(path) == rows
    for bad in ({"mini/alloc-moe/64/speed": 1}, {"mini/alloc-moe/decode": 1}, {"m/a/64/decode": "fast"}, {"x": 1}):
        path.write_text(json.dumps({"kind": "allocmoe.floors", "version": 1, "rows": bad}))
        with pytest.raises(AllocMoEError, match="not a valid floors"):
            gate.load_floors(path)


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


def test_a_commit_at_which_measuring_failed_is_not_measured_and_says_why(old):
    failed = Record(
        "failure", "", "", None, None, None, {}, {}, details={"error": "KeyError: 'k'"}, environment=old[0].environment
    )
    found = compare([failed], old)
    assert found.code == 2
    assert set(verdicts(found).values()) == {UNMEASURED}
    assert "new: measuring failed with KeyError: 'k'" in found.notes
    assert compare([*old, failed], old).code == 0, "it went on and was measured"
