"""Accuracy: the mean over groups of the mean over tasks, from items of either kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from allocmoe import metrics, records, stats
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import Measured
from allocmoe.records import Record
from allocmoe.report.compare import comparisons
from allocmoe.report.groups import groups
from tests.gate.measured import quality

METRIC = metrics.get("accuracy")
KEPT = Path(__file__).parents[1] / "goldens/records"


def record(tasks: dict[str, Any], groups: dict[str, list[str]] | None = None, **told: float) -> Record:
    details = {"groups": groups} if groups else {}
    return replace(quality("uniform", 64, 0), samples={"tasks": tasks}, details=details, metrics=told)


def right(*correct: int) -> dict[str, Any]:
    return {"ids": list(range(len(correct))), "correct": list(correct)}


def test_a_group_counts_once_however_many_tasks_and_items_it_has():
    tasks = {"a": right(1, 1, 1, 0), "b": right(0, 0), "c": right(1)}
    assert METRIC.value([Measured(record(tasks, {"x": ["a", "b"], "y": ["c"]}))]) == pytest.approx((0.375 + 1) / 2)
    assert METRIC.value([Measured(record(tasks, {"x": ["b"], "y": ["c"]}))]) == 0.5
    assert METRIC.value([Measured(record(tasks))]) == pytest.approx((0.75 + 0 + 1) / 3), "no groups: all are one"
    scored = {"a": {"ids": [4, 5], "score": [0.25, 0.75]}, "c": right(1)}
    assert METRIC.value([Measured(record(scored))]) == 0.75


def test_a_record_without_items_is_taken_at_its_word():
    assert METRIC.value([Measured(record({}, **{"group/mean": 0.7}))]) == 0.7
    assert not METRIC.has(record({}))


@pytest.mark.parametrize("name", ["embedded", "small"])
def test_committed_records_have_the_value_that_they_state_and_that_pandas_finds(name: str):
    found = [r for r in records.load(KEPT / f"{name}.jsonl") if METRIC.told(r)]
    assert found
    for one in found:
        group = {task: g for g, tasks in one.details["groups"].items() for task in tasks}
        table = pd.DataFrame(
            [(group[t], t, c) for t, answers in one.samples["tasks"].items() for c in answers["correct"]],
            columns=["group", "task", "correct"],
        )
        mean = table.groupby(["group", "task"]).correct.mean().groupby("group").mean().mean()
        assert METRIC.value([Measured(one)]) == pytest.approx(mean) == pytest.approx(one.metrics["group/mean"])


def test_the_reports_table_compares_with_the_same_p():
    found = [r for r in records.load(KEPT / "embedded.jsonl") if METRIC.told(r)]
    (group,) = groups(found, "quality")
    told = [c for c in comparisons(group, "alloc-moe") if c.p == c.p]
    assert told
    for c in told:
        mine, other = group.find("alloc-moe", c.budget), group.find(c.other, c.budget)
        tasks = [r.samples["tasks"] for r in (mine, other)]
        assert c.p == stats.group_test(*tasks, list(mine.details["groups"].values()))
        loss = METRIC.compare([Measured(mine)], [Measured(other)], 0.05)
        assert loss.estimate == pytest.approx(-c.difference.estimate)
        assert c.p == pytest.approx(2 * min(loss.p, METRIC.compare([Measured(other)], [Measured(mine)], 0.05).p))


def test_what_does_not_pair_up_is_refused():
    tasks = {"a": right(1, 0), "b": right(1, 1)}
    for other, says in (
        (record({"a": right(1, 0)}), "different tasks"),
        (record(tasks, {"x": ["a"], "y": ["b"]}), "different groups"),
        (record(tasks | {"b": {"ids": [7, 8], "correct": [1, 1]}}), "different items of b"),
        (record(tasks | {"b": {"ids": [0, 1], "score": [1.0, 1.0]}}), "one has scores"),
    ):
        with pytest.raises(AllocMoEError, match=says):
            METRIC.compare([Measured(record(tasks))], [Measured(other)], 0.05)


def test_floors_are_below_and_changes_are_in_points():
    assert METRIC.broken(0.4, 0.5) == "0.4 is below its floor of 0.5"
    assert METRIC.broken(0.5, 0.5) == ""
    assert METRIC.shown(0.6543) == "65.43 %"
    assert (METRIC.limit(1.0), METRIC.change(0.02)) == (0.01, 2.0)
    (tracked,) = METRIC.tracked
    assert tracked.samples(Measured(record({"a": right(1, 0, 0, 0)}))) == [75.0]
