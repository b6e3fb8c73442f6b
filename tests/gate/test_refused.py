"""What the gate cannot compare: could not measure, with the reason, never a pass."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
from measured import COMMIT, ENVIRONMENT, NAME, changed, lose, machine, quality, row, slower, verdicts, worse
from statsmodels.stats import multitest  # noqa: F401  slow to import, so not in a test

from allocmoe import cli, records
from allocmoe.gate import NEW, PASS, REGRESSED, UNMEASURED, compare, show
from allocmoe.records import Record

pytestmark = pytest.mark.whole

QUALITY, SPEED = ("perplexity", "accuracy"), ("prefill", "decode")
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


def test_a_commit_at_which_measuring_failed_is_not_measured_and_says_why(old):
    failed = Record(
        "failure", "", "", None, None, None, {}, {}, details={"error": "KeyError: 'k'"}, environment=old[0].environment
    )
    found = compare([failed], old)
    assert found.code == 2
    assert set(verdicts(found).values()) == {UNMEASURED}
    assert "new: measuring failed with KeyError: 'k'" in found.notes
    assert compare([*old, failed], old).code == 0, "it went on and was measured"


def test_a_baseline_that_mixes_commits_is_not_measured(old, new):
    """What is slower than the one may not be slower than both."""
    other = machine(commit=COMMIT | {"hash": "b" * 40})
    found = compare(new, [replace(old[0], environment=other), *old[1:]], floors={f"{NAME}/accuracy": 0.99})
    assert found.code == 1, "a floor is about the new file alone"
    assert {v for n, v in verdicts(found).items() if n != f"{NAME}/accuracy"} == {UNMEASURED}
    assert "the baseline mixes commits" in row(found, f"{NAME}/decode").reason
    assert not found.mixed, "the new file may replace it"


def test_two_states_of_one_commit_are_mixed_too(old, new):
    first, second = (machine(commit=COMMIT | {"dirty": True, "changes": letter * 16}) for letter in "ef")
    edited = [replace(r, environment=first) for r in new]
    assert compare(edited, old).code == 0
    found = compare([replace(edited[0], environment=second), *edited[1:]], old)
    assert found.code == 2
    assert "the new file mixes commits: aaaaaaaaaa+eeeeeeee, aaaaaaaaaa+ffffffff" in found.mixed


def test_several_plans_of_one_row_are_ambiguous(old, new):
    later = changed(new, "quality", plan="another", created="2027-01-01T00:00:00+00:00")
    found = compare([*new, *later], old)
    assert found.code == 2
    assert "the new file holds several plans of it" in row(found, f"{NAME}/perplexity").reason
    assert compare(changed(new, "quality", plan="another"), old).code == 0, "a new plan is what may be compared"


@pytest.mark.parametrize("nll", [[1e200] * 32, [1e200, *[2.0] * 31]])
def test_where_nothing_can_be_computed_with_the_reason_says_so(nll):
    old = [quality("uniform", 64, 1)]
    new = changed(old, "quality", samples=lambda s: s | {"nll": nll})
    for one in (old, new):
        one[0].samples.pop("tasks")
    found = compare(new, old)
    assert found.code == 2
    told = row(found, "mini/uniform/64/perplexity")
    assert (told.verdict, math.isnan(told.p)) == (UNMEASURED, True)
    assert "too large to compute with" in told.reason


ODD = {
    "spent nothing": ("quality", {"spent": {"per_token": 0}}),
    "spent words": ("quality", {"spent": {"per_token": "x"}}),
    "a commit that is a word": ("quality", {"environment": machine(commit="abc")}),
    "speed with a perplexity": ("speed", {"metrics": {"perplexity": 5.0}}),
    "huge losses": ("quality", {"samples": lambda s: s | {"nll": [1e6] * 32}}),
    "huge answers": (
        "quality",
        {"samples": lambda s: s | {"tasks": {t: v | {"correct": [1e308] * 9} for t, v in s["tasks"].items()}}},
    ),
    "no samples at all": ("speed", {"samples": {"prefill_s": None, "decode_s": ["a"]}}),
    "no versions": ("quality", {"environment": machine(versions=None)}),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("sides", ["new", "old", "both"])
def test_odd_records_end_with_could_not_measure(old, new, name, sides, tmp_path, monkeypatch, capsys):
    """From files, through the verb: no traceback, and never 1, which says that something regressed."""
    about, parts = ODD[name]
    files = {}
    for side, found in (("new", new), ("old", old)):
        files[side] = tmp_path / f"{side}.jsonl"
        odd = changed(found, about, **parts) if sides in (side, "both") else found
        records.append(files[side], *odd)
    monkeypatch.setattr(sys, "argv", ["allocmoe", "gate", str(files["new"]), "--baseline", str(files["old"])])
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    expected = {
        ("speed with a perplexity", sides): (0,), ("huge losses", "both"): (0,), ("huge losses", "new"): (1, 2),
    }  # fmt: skip
    assert code in expected.get((name, sides), (2,)), said
    assert "Traceback" not in said.out + said.err
