"""What cannot be asked as its spec says is refused in one line, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_tasks import CHOICE, FILTERS, WRITE, choices, put

from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.mini import resolve


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(resolve("mini-olmoe"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write = [{"prompt": "1 + 1 =", "target": "2"}]
    put(folder, "acp_app_bool", write, {**WRITE, "tag": "acp_bench"})
    put(folder, "arc_easy", choices(1, 4), CHOICE)
    put(folder, "arc_challenge", choices(5, 4), CHOICE)
    put(folder, "piqa", write, WRITE)
    put(folder, "gsm8k", write, {**WRITE, "filter_list": FILTERS[1:]})
    put(folder, "unread", choices(1, 4), {**CHOICE, "metric_list": [{"metric": "brier_score"}]})
    put(folder, "absent", choices(1, 4), CHOICE)
    (folder / "data" / "absent" / "test.jsonl").unlink()
    put(folder, "first", choices(1, 4), {**CHOICE, "metric_list": [{"metric": "acc_norm"}, {"metric": "acc"}]})
    return folder


def suite(engine: HFEngine, folder: Path, *names: str, **options: Any) -> TaskSuite:
    return TaskSuite(engine, names, include=[folder], stock=False, **options)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["magic", "piqa", "hocus"], "lm-eval knows no task magic, hocus: expected its name of a task, group or tag"),
        (["nlu"], "lm-eval knows no task boolq, lambada_openai"),
        (["acp_bench"], "acp_bench has 1 of its 14 lm-eval tasks here"),
        (["arc", "arc_easy"], "arc_easy is in both arc and arc_easy: name one"),
        (["piqa"], "piqa reports exact_match, not acc"),
        (["unread"], "unread reports brier_score, not acc or exact_match"),
        (["gsm8k"], "gsm8k has the filters flexible-extract, expected strict-match"),
        (["absent"], "cannot load absent: FileNotFoundError"),
        (["z" * 5000], "lm-eval knows no task z"),
    ],
)
def test_it_is_one_line(engine: HFEngine, folder: Path, names: list[str], says: str) -> None:
    with pytest.raises(AllocMoEError) as refused:
        suite(engine, folder, *names).describe(2)
    text = str(refused.value)
    assert text.startswith(says)
    assert len(text) < 700
    assert "\n" not in text


def test_a_task_in_no_table_is_read_by_the_first_number_known(engine: HFEngine, folder: Path) -> None:
    asked = suite(engine, folder, "first")
    assert asked.groups == {"other": ["first"]}
    assert asked.describe(2)["task_settings"]["first"]["metric"] == "acc"
    assert set(asked.run(2)["first"]) == {"ids", "correct"}


def test_a_folder_goes_before_the_embedded_ones(engine: HFEngine, tmp_path: Path) -> None:
    put(tmp_path, "mini_more", choices(1, 4), CHOICE)
    asked = suite(engine, tmp_path, "mini_add", "mini_more")
    assert asked.groups == {"math": ["mini_add"], "other": ["mini_more"]}
    assert {name: len(one["ids"]) for name, one in asked.run(3).items()} == {"mini_add": 3, "mini_more": 3}
    assert set(asked.describe(3)["task_settings"]) == {"mini_more"}


def test_the_place_of_a_random_number_is_not_moved(engine: HFEngine, folder: Path) -> None:
    import random

    random.seed(5)
    wanted = random.Random(5).random()
    suite(engine, folder, "first").describe(2)
    assert random.random() == wanted
