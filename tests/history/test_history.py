"""Series, changes and gaps: against pandas, and for what must not matter."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from past import MACHINE, commit, past, quality, session

from allocmoe import history
from allocmoe.errors import AllocMoEError
from allocmoe.history import Change, Series
from allocmoe.records import Record

few = settings(max_examples=10, deadline=None)
KEY = ["method", "budget", "metric"]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return past()


def one(found: list[Series], method: str, metric: str) -> Series:
    (wanted,) = [s for s in found if (s.method, s.metric) == (method, metric)]
    return wanted


def told(changes: list[Change]) -> list[tuple[Any, ...]]:
    return [(c.series.method, c.series.metric, c.commit.hash, c.direction) for c in changes]


def by_pandas(records: list[Record]) -> pd.DataFrame:
    """A value per commit, method, budget and metric, worked out with tables."""
    rows = [{"method": r.method, "budget": r.budget, "date": r.environment["commit"]["date"], "about": r.about,
             "session": r.setup.get("session"), "metrics": r.metrics, "spent": r.spent, "samples": r.samples}
            for r in records]  # fmt: skip
    table = pd.DataFrame(rows)
    told = table[table.about == "quality"]
    kept = [told.assign(metric="perplexity", value=told.metrics.map(lambda m: m["perplexity"])),
            told.assign(metric="accuracy", value=told.metrics.map(lambda m: m["group/mean"])),
            told.assign(metric="activations", value=told.spent.map(lambda s: s["per_token"]))]  # fmt: skip
    timed = table[table.about == "speed"]
    pairs = timed.merge(timed[timed.method == "original"], on="session", suffixes=("", "_base"))
    pairs = pairs[pairs.method != "original"]
    for phase in ("prefill", "decode"):
        logs = [np.median(np.log(np.divide(a[f"{phase}_s"], b[f"{phase}_s"])))
                for a, b in zip(pairs.samples, pairs.samples_base, strict=True)]  # fmt: skip
        kept.append(pairs.assign(metric=phase, value=logs))
    values = pd.concat(kept).groupby([*KEY, "date"])["value"].mean()
    is_log = values.index.get_level_values("metric").isin(["prefill", "decode"])
    return values.where(~is_log, np.exp(values)).unstack("date").sort_index()


def test_series_are_those_that_pandas_makes(records: list[Record]):
    known = by_pandas(records)
    found = history.series(records)
    assert sorted((s.method, s.budget, s.metric) for s in found) == known.index.tolist()
    for s in found:
        assert s.values == pytest.approx(known.loc[(s.method, s.budget, s.metric)].tolist(), rel=1e-12)
        assert [p.commit.date for p in s.points] == known.columns.tolist()
    assert {len(p.samples) for p in one(found, "alloc-t", "decode").points} == {2}


def test_the_bad_commit_is_named(records: list[Record]):
    found = history.series(records)
    bad = commit(7)["hash"]
    changes = history.changes(found)
    assert sorted(told(changes)) == [("alloc-moe", "perplexity", bad, "worse"), ("alloc-t", "decode", bad, "worse")]
    slow, dear = sorted(changes, key=lambda c: c.series.metric)
    assert (dear.before, dear.after, dear.p) == (4.9, pytest.approx(4.9 * 1.03), 0)
    assert dear.relative == pytest.approx(0.03)
    assert 0 < slow.p <= history.ALPHA
    values = slow.series.values
    assert slow.before == pytest.approx(np.exp(np.log(values[:7]).mean()))
    assert slow.after == pytest.approx(np.exp(np.log(values[7:]).mean()))
    assert slow.previous.hash == commit(6)["hash"]
    assert "4.9 -> 5.047, +3.0%, exact" in history.words(dear)
    assert history.gaps(found) == []


def test_direction_follows_the_metric():
    up = [quality(n, metrics={"perplexity": 4.8, "group/mean": 0.6 + 0.1 * (n > 1)}) for n in range(4)]
    down = [quality(n, metrics={"perplexity": 4.8 - (n > 1)}, spent={"per_token": 64.0 + (n > 2)}) for n in range(4)]
    assert told(history.changes(history.series(up))) == [("alloc-moe", "accuracy", commit(2)["hash"], "better")]
    assert told(history.changes(history.series(down))) == [
        ("alloc-moe", "perplexity", commit(2)["hash"], "better"),
        ("alloc-moe", "activations", commit(3)["hash"], "worse"),
    ]


def test_the_smallest_change_can_be_set(records: list[Record]):
    found = history.series(records)
    assert [c.series.metric for c in history.changes(found, {"perplexity": 0.05})] == ["decode"]
    assert [c.series.metric for c in history.changes(found, {"decode": 0.2})] == ["perplexity"]


@few
@given(st.randoms())
def test_the_order_of_records_does_not_matter(chance: random.Random):
    made = past(9, 5)
    mixed = made.copy()
    chance.shuffle(mixed)
    assert history.series(mixed) == history.series(made)
    assert history.changes(history.series(mixed)) == history.changes(history.series(made))


def scaled(record: Record, factor: float) -> Record:
    samples = {k: [v * factor for v in values] for k, values in record.samples.items()}
    metrics = {k: v * factor for k, v in record.metrics.items()}
    spent = {k: v * factor for k, v in record.spent.items()}
    return replace(record, samples=samples, metrics=metrics, spent=spent)


@few
@given(st.floats(0.001, 1000))
def test_scaling_all_values_does_not_matter(factor: float):
    made = past(9, 5)
    plain, larger = (history.changes(history.series(r)) for r in (made, [scaled(r, factor) for r in made]))
    assert told(plain) == told(larger)
    assert [c.relative for c in plain] == pytest.approx([c.relative for c in larger])


def test_scaling_one_method_scales_its_ratio_and_finds_the_same():
    made = past(9, 5)
    slower = [scaled(r, 3.0) if r.method == "alloc-t" else r for r in made]
    assert told(history.changes(history.series(slower))) == told(history.changes(history.series(made)))
    ratio = [one(history.series(r), "alloc-t", "decode").values for r in (slower, made)]
    assert ratio[0] == pytest.approx([3 * v for v in ratio[1]])


def test_a_commit_that_breaks_the_engine_is_a_gap_and_its_first_commit_is_named(records: list[Record]):
    broken = [r for r in records if not (r.about == "speed" and r.environment["commit"]["hash"][:2] in ("04", "05"))]
    found = history.gaps(history.series(broken))
    assert {(g.series.method, g.series.metric) for g in found} == {
        (m, p) for m in ("uniform", "alloc-t") for p in ("prefill", "decode")
    }
    assert {tuple(c.hash for c in g.commits) for g in found} == {(commit(4)["hash"], commit(5)["hash"])}
    assert not any(g.last for g in found)


def test_a_commit_at_which_nothing_could_be_measured_is_known_by_its_failure(records: list[Record]):
    wrong = commit(5)["hash"]
    kept = [r for r in records if r.environment["commit"]["hash"] != wrong]
    assert history.gaps(history.series(kept)) == [], "nobody knows of it"
    failed = Record("failure", "", "", None, None, None, {}, {}, environment={"commit": commit(5)})
    found = history.gaps(history.series([*kept, failed]))
    assert found
    assert {g.commits[0].hash for g in found} == {wrong}


def test_a_gap_up_to_now_and_one_before_the_first_record(records: list[Record]):
    late = [
        r
        for r in records
        if not (r.method == "alloc-moe" and not 3 <= int(r.environment["commit"]["hash"][:2], 16) < 9)
    ]
    found = history.gaps(history.series(late))
    assert [(g.commits[0].hash, len(g.commits), g.last) for g in found] == [(commit(9)["hash"], 3, True)] * 3


def test_a_change_across_a_gap_says_so(records: list[Record]):
    found = history.series(
        [r for r in records if r.environment["commit"]["hash"][:2] not in ("06",) or r.method == "original"]
    )
    (dear,) = [c for c in history.changes(found) if c.series.metric == "perplexity"]
    assert (dear.between, dear.previous.hash) == (1, commit(5)["hash"])
    assert "the 1 before it not measured" in history.words(dear)


def test_another_machine_version_setup_or_weights_is_another_series_but_no_gap():
    made = [quality(n) for n in range(4)]
    changed: list[dict[str, Any]] = [
        {"environment": {**MACHINE, "cores": 64, "commit": commit(4)}},
        {"environment": {**MACHINE, "versions": {"torch": "3.0"}, "commit": commit(4)}},
        {"environment": {**MACHINE, "versions": {**MACHINE["versions"], "python": "3.12"}, "commit": commit(4)}},
        {"setup": {"text": "mini-test", "windows": 9, "engine": "transformers"}},
        {"fingerprint": "0" * 16},
    ]
    for parts in changed:
        found = history.series([*made, replace(quality(4), metrics={"perplexity": 99.0}, **parts)])
        lines = [s for s in found if s.metric == "perplexity"]
        assert sorted(len(s.points) for s in lines) == [1, 4]
        assert len({s.label for s in lines}) == 2
        assert history.changes(lines) == []
        assert history.gaps(lines) == []


def test_unimportant_differences_of_the_environment_join():
    versions = {**MACHINE["versions"], "allocmoe": "9", "numpy": "9"}
    made = [quality(0), quality(1, environment={**MACHINE, "versions": versions, "commit": commit(1)})]
    assert [len(s.points) for s in history.series(made)] == [2, 2, 2]


def test_an_upgrade_of_what_measures_is_no_commits_doing():
    versions = {**MACHINE["versions"], "lm_eval": "9"}
    made = [quality(0), quality(1, environment={**MACHINE, "versions": versions, "commit": commit(1)})]
    assert [len(s.points) for s in history.series(made)] == [1] * 6


def test_dates_order_commits_whatever_their_zone_and_changed_files_come_after():
    early = quality(5, environment={**MACHINE, "commit": commit(5, date="2026-01-01T20:00:00+09:00")})
    dirty = quality(1, environment={**MACHINE, "commit": commit(1, dirty=True)})
    line = history.series([dirty, quality(1), quality(0), early])[0]
    assert [c.short for c in line.commits] == [f"{n:02}" * 5 for n in (5, 0, 1)] + ["01" * 5 + "+"]


def test_other_changes_on_top_of_a_commit_are_another_commit():
    def at(minute: int, digest: str, value: float) -> Record:
        known = {**MACHINE, "commit": commit(1, dirty=True, changes=digest)}
        return quality(1, environment=known, created=f"2026-02-01T00:0{minute}:00+00:00", metrics={"perplexity": value})

    first, second = "b" * 16, "a" * 16
    line = next(
        s
        for s in history.series([at(2, second, 3.0), at(1, first, 2.0), at(3, first, 2.0)])
        if s.metric == "perplexity"
    )
    assert [c.short for c in line.commits] == [f"{'01' * 5}+{'b' * 8}", f"{'01' * 5}+{'a' * 8}"]
    assert [p.samples for p in line.points] == [(2.0, 2.0), (3.0,)]


def test_commits_of_one_second_keep_the_order_in_which_they_come():
    same = [quality(n, environment={**MACHINE, "commit": commit(n, date=commit(0)["date"])}) for n in (3, 1, 2)]
    assert [c.hash[:2] for c in history.series(same)[0].commits] == ["03", "01", "02"]


def test_commits_of_one_second_are_ordered_by_ancestors_then_by_when_they_were_measured():
    def at(number: int, created: str, **known: Any) -> Record:
        found = commit(number, date=commit(0)["date"], **known)
        return quality(number, environment={**MACHINE, "commit": found}, created=f"2026-02-01T0{created}:00:00+00:00")

    told = [at(1, "5", ancestors=9), at(2, "6", ancestors=8), at(3, "7", ancestors=7)]
    assert [c.hash[:2] for c in history.series(told)[0].commits] == ["03", "02", "01"]
    untold = [at(1, "5"), at(2, "4"), at(1, "3"), at(3, "4")]
    assert [c.hash[:2] for c in history.series(untold)[0].commits] == ["01", "02", "03"]


def test_records_without_a_commit_have_no_place():
    unnamed = quality(0, environment=MACHINE)
    assert [history.named(r) for r in (unnamed, quality(1))] == [False, True]
    assert history.series([unnamed]) == []
    assert [len(s.points) for s in history.series([unnamed, quality(1)])] == [1, 1, 1]


def test_times_need_the_original_of_their_own_session():
    alone = [r for r in session(0, "a") if r.method != "original"]
    other = [r for r in session(0, "b") if r.method == "original"]
    assert history.series([*alone, *other]) == []
    for odd in ({"prefill_s": [1.0], "decode_s": []}, {"prefill_s": ["a"] * 8, "decode_s": None}):
        short = replace(alone[0], samples=odd)
        assert history.series([short, *[r for r in session(0, "a") if r.method == "original"]]) == []


def test_a_level_of_nothing_has_no_percentage():
    made = [quality(n, metrics={"group/mean": 0.5 * (n > 1)}) for n in range(3)]
    (change,) = history.changes(history.series(made))
    assert change.relative == float("inf")
    assert "from nothing" in history.words(change)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"date": "yesterday", "hash": "ab" * 20}, "expected ISO 8601"), ({"date": "2026-01-01"}, "without a hash"),
     ("abcdef", "without a hash"), ({"hash": "ab" * 20}, "expected ISO 8601")],
)  # fmt: skip
def test_a_commit_that_is_none_is_refused(wrong: Any, says: str):
    with pytest.raises(AllocMoEError, match=says) as caught:
        history.series([quality(0, environment={**MACHINE, "commit": wrong})])
    assert "\n" not in str(caught.value)
