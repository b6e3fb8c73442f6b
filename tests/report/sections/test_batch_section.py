"""Alloc-T and what else is in the batch."""

from __future__ import annotations

import math
import statistics

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import batch
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_the_line_is_the_loss_by_batch_size() -> None:
    (block,) = batch.blocks(results([*analysed.methods(), *analysed.batches()]))
    (line,) = block.figure.data
    assert list(line.x) == [1, 8]
    assert list(line.y) == pytest.approx([math.exp(0.08), math.exp(0.01)])


def test_the_table_says_how_far_windows_move() -> None:
    (block,) = batch.blocks(results([*analysed.methods(), *analysed.batches()]))
    rows = {row["method"]: row["cells"] for row in block.facts["rows"]}
    far = statistics.stdev([0.0, 0.02])
    assert rows["alloc-t"][1:] == [f"{far / 2:.4f}", f"{far:.4f}"], "two of four windows move"
    assert rows["original"][1:] == ["0.0000", "0.0000"]
    assert (block.facts["batch"], block.facts["orders"]) == (8, 2)
    one = [r for r in analysed.batches() if not r.setup["analysis"]["order"]]
    (block,) = batch.blocks(results([*analysed.methods(), *one]))
    assert block.facts["rows"] == []
