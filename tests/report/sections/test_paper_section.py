"""The paper's tables."""

from __future__ import annotations

import pytest

from allocmoe.methods import label
from allocmoe.records import Record
from allocmoe.report.results import results
from allocmoe.report.sections import paper
from tests.report.made import BUDGETS, GROUPS, one, plans, quality

pytestmark = pytest.mark.whole


def test_the_cells_are_the_records_and_the_best_of_a_budget_is_bold(records: list[Record]):
    block, tasks = paper.blocks(results(records))
    header = list(block.table.header)
    assert header == ["budget", "method", "NLU, %", "Reasoning, %", "Math, %", "Mean, %", "perplexity"]
    mine = [r for r in records if r.about == "quality"]
    assert [(r.method, r.budget) for r in block.table.rows[:2]] == [("original", 48), ("uniform", 40)]
    for row in block.table.rows:
        record = one(mine, row.method, row.budget)
        cells = dict(zip(header, row.cells, strict=True))
        assert cells["method"].text == label(row.method)
        assert cells["perplexity"].value == record.metrics["perplexity"]
        assert [cells[h].value for h in header[2:6]] == [record.metrics[f"group/{g}"] for g in (*GROUPS, "mean")]
    for budget in BUDGETS:
        # NAEE spends 6 % more than it was given, which is within what may be spent
        lowest = min((r for r in mine if r.budget == budget), key=lambda r: r.metrics["perplexity"])
        bold = [r.method for r in block.table.rows if r.budget == budget and r.cells[-1].look == "best"]
        assert bold == [lowest.method]
    assert list(tasks.table.header[2:]) == [t for among in GROUPS.values() for t in among]
    assert tasks.table.rows[0].cells[2].value == mine[0].metrics["acc/mini_entail"]


def test_who_spends_more_than_the_budget_is_never_the_best():
    made = [quality(*p) for p in plans("uniform", "alloc-moe")]
    pruned = [r if r.method != "alloc-moe" else Record(**vars(r) | {"spent": {"per_token": 48.0}}) for r in made]
    block, _ = paper.blocks(results(pruned))
    assert {r.method for r in block.table.rows if r.cells[-1].look == "best"} == {"uniform"}


def test_without_tasks_there_is_perplexity_alone():
    made = [quality(*p) for p in plans("uniform")]
    bare = [
        Record(**vars(r) | {"metrics": {"perplexity": r.metrics["perplexity"]}, "details": {}, "samples": {}})
        for r in made
    ]
    (block,) = paper.blocks(results(bare))
    assert list(block.table.header) == ["budget", "method", "perplexity"]
