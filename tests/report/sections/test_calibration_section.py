"""Calibration text of Alloc-L."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import calibration
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_it_says_how_much_another_text_moves() -> None:
    (block,) = calibration.blocks(results([*analysed.methods(), *analysed.calibration()]))
    assert "at most 25% stands in other layers" in block.facts["note"], "13 of 52"
    rows = {row["label"]: row for row in block.facts["rows"]}
    assert list(rows) == ["usual, 4 windows", "other, 2 windows", "WikiText2", "C4", "Pile"]
    assert rows["Pile"]["theirs"] == ["45.84", "45.29", "45.05", "42.55"]
    assert [cell for cell, _ in rows["other, 2 windows"]["cells"]][-1].startswith("+3.0%"), "exp(0.03)"
