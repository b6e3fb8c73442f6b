"""Every row of the table is something that the installed lm-eval has, and says of it what its files say."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("lm_eval")
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from allocmoe.evaluate.tasks.spec import GROUPS
from allocmoe.evaluate.tasks.table import PAPER, PARTS
from allocmoe.mini.items import TASKS

pytestmark = pytest.mark.whole

STOCK = {**PAPER, **PARTS}


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    return TaskManager().task_index


def leaves(index: dict[str, Any], name: str) -> list[str]:
    """The tasks that a name of lm-eval stands for."""
    entry = index[name]
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    if entry.kind.name == "GROUP":
        return [leaf for child in entry.cfg["task"] for leaf in leaves(index, child)]
    return [name]


@pytest.mark.parametrize("name", STOCK)
def test_lm_eval_has_it_as_the_row_says(index: dict[str, Any], name: str) -> None:
    spec = STOCK[name]
    assert spec.group in GROUPS
    assert all(asked in index for asked in spec.asked)
    tasks = [leaf for asked in spec.asked for leaf in leaves(index, asked)]
    assert len(tasks) == spec.members
    for task in tasks:
        says = load_yaml(index[task].yaml_path, resolve_func=False)
        assert spec.metric in [metric["metric"] for metric in says["metric_list"]]
        filters = [one["name"] for one in says.get("filter_list") or [{"name": "none"}]]
        assert len(set(filters) & set(spec.filters)) == 1, "which filter is read must not be a matter of order"
        assert spec.shots in (None, says.get("num_fewshot", 0)), "the choice is: the task's own"
        generates = says["output_type"] == "generate_until"
        assert (spec.cap is not None) == generates
        if generates:
            assert spec.cap == says["generation_kwargs"].get("max_gen_toks", 256)
        assert spec.binary == (task != "truthfulqa_mc2")


def test_no_embedded_name_or_set_of_names_is_taken(index: dict[str, Any]) -> None:
    from allocmoe.evaluate.tasks.table import SETS

    assert not {*TASKS, *SETS, "arc"} & set(index)
