"""Rows of lm-eval become items: one filter's, right or wrong, or a score; means of means."""

from __future__ import annotations

import math

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.loading import Member
from allocmoe.evaluate.tasks.results import result, scores
from allocmoe.evaluate.tasks.spec import TaskSpec


def member(name: str, use: str = "none") -> Member:
    return Member(name, None, "acc", use, 0, None)


def rows(*found: tuple[int, float], use: str = "none") -> list[dict]:
    return [{"doc_id": i, "acc": v, "filter": use} for i, v in found]


def test_rows_of_another_filter_do_not_count() -> None:
    both = rows((3, 1), (1, 0), use="strict") + rows((3, 0), (1, 1), use="loose")
    for use, wanted in (("strict", [0, 1]), ("loose", [1, 0])):
        assert result(TaskSpec("a"), [(member("a", use), both)]) == {"ids": [1, 3], "correct": wanted}


def test_a_score_is_kept_as_it_is() -> None:
    found = result(TaskSpec("a", binary=False), [(member("a"), rows((0, 0.25), (1, 1.0)))])
    assert found == {"ids": [0, 1], "score": [0.25, 1.0]}
    assert result(TaskSpec("a", binary=False), [(member("a"), rows((0, 0.0), (1, 1.0)))])["score"] == [0.0, 1.0]


def test_without_a_row_in_the_table_the_values_tell() -> None:
    assert result(TaskSpec("a"), [(member("a"), rows((0, 1.0)))]) == {"ids": [0], "correct": [1]}
    assert result(TaskSpec("a"), [(member("a"), rows((0, 1.0), (1, 0.5)))]) == {"ids": [0, 1], "score": [1.0, 0.5]}


def test_items_of_several_tasks_keep_their_task_s_name() -> None:
    parts = [(member("b"), rows((7, 1))), (member("a"), rows((2, 0), (0, 1)))]
    found = result(TaskSpec("all"), parts)
    assert found == {"ids": ["b/7", "a/0", "a/2"], "correct": [1, 1, 0]}


@pytest.mark.parametrize(
    ("binary", "value", "says"),
    [(True, 0.5, "item 4 of a scores 0.5, expected 0 or 1"), (None, 1.5, "from 0 to 1"), (False, -0.1, "from 0 to 1"),
     (False, math.nan, "scores nan"), (True, math.nan, "scores nan")],
)  # fmt: skip
def test_what_is_no_such_result_is_refused(binary: bool | None, value: float, says: str) -> None:
    with pytest.raises(AllocMoEError, match=says):
        result(TaskSpec("a", binary=binary), [(member("a"), rows((0, 1), (4, value)))])


def test_scores_are_means_of_means() -> None:
    results = {
        "a": {"ids": [0, 1, 2, 3], "correct": [1, 0, 0, 0]},
        "b": {"ids": [0, 1], "correct": [1, 1]},
        "c": {"ids": [0, 1, 2, 3, 4], "score": [0, 0.25, 1, 0.75, 0]},
    }
    assert scores(results, {"x": ["a", "b"], "y": ["c"]}) == pytest.approx(
        {"acc/a": 0.25, "acc/b": 1.0, "acc/c": 0.4, "group/x": 0.625, "group/y": 0.4, "group/mean": 0.5125}
    )
