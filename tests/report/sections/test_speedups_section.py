"""Speed beside the paper's."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import speedups
from tests.report.made import BUDGETS, onto, plans, speed

pytestmark = pytest.mark.whole


def test_the_paper_s_number_stands_at_half() -> None:
    found = results([onto(speed(*p)) for p in plans("uniform", "naee", "alloc-moe")])
    (block,) = speedups.blocks(found)
    theirs = [t for t in block.figure.data if t.name == "the paper's"]
    assert [(list(t.x), list(t.y)) for t in theirs] == [([0.5], [1.15]), ([0.5], [1.34])]
    assert {row["method"] for row in block.facts["rows"]} == {"uniform", "alloc-moe"}
    (rows,) = [s.rows for s in found.speed]
    half = next(r for r in rows if r.method == "alloc-moe" and r.budget == BUDGETS[2])
    (cell,) = [r["decode"] for r in block.facts["rows"] if r["method"] == "alloc-moe" and r["share"] == "50%"]
    assert cell.startswith(f"{half.decode.estimate:.2f}")
    assert (block.facts["prefill"], block.facts["decode"]) == (
        "1.15\N{MULTIPLICATION SIGN}",
        "1.34\N{MULTIPLICATION SIGN}",
    )


def test_without_alloc_moe_there_is_nothing_to_compare() -> None:
    assert not list(speedups.blocks(results([speed(*p) for p in plans("uniform")])))
