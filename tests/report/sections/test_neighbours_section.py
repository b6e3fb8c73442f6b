"""How far strangers in the batch move an answer."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import neighbours
from tests.report import analysed


def test_a_bar_is_the_mean_divergence_beside_each_kind() -> None:
    (block,) = neighbours.blocks(results([*analysed.methods(), *analysed.strangers()]))
    flat, peaked = block.figure.data
    assert list(flat.x) == list(peaked.x) == ["Alloc-T", "Alloc-MoE causal"]
    assert list(flat.y) == [0.02, neighbours.LEAST]
    assert list(peaked.y) == [0.01, neighbours.LEAST]
    assert block.figure.layout.yaxis.type == "log"


def test_the_table_has_every_plan_and_kind() -> None:
    (block,) = neighbours.blocks(results([*analysed.methods(), *analysed.strangers()]))
    assert (block.facts["beside"], block.facts["victims"]) == (7, 2)
    told = [(row["method"], row["beside"].split(" ")[-2]) for row in block.facts["rows"]]
    assert told == [(m, kind) for m in ("alloc-t", "alloc-moe-causal") for kind in ("flattest", "peaked")]
    assert block.facts["rows"][0]["cells"] == ["0.02", "0.2", "2.00 %"]


@pytest.mark.parametrize("missing", ["flat", "peaked"])
def test_a_kind_that_was_not_measured_is_left_out(missing: str) -> None:
    some = [r for r in analysed.strangers() if r.setup["analysis"]["beside"] != missing]
    (block,) = neighbours.blocks(results([*analysed.methods(), *some]))
    assert sorted(len(bar.x) for bar in block.figure.data) == [0, 2]
