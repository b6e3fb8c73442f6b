"""Spent against requested."""

from __future__ import annotations

import pytest

from allocmoe.records import Record
from allocmoe.report.results import results
from allocmoe.report.sections import spent
from tests.report.made import said

pytestmark = pytest.mark.whole


def test_the_bars_are_the_deviations(records: list[Record]):
    (block,) = spent.blocks(results(records))
    bars = {trace.name: trace for trace in block.figure.data}
    assert list(bars["NAEE"].y) == pytest.approx([0.06] * 4)
    assert list(bars["uniform"].y) == [0] * 4
    assert block.facts["method"] == "naee"


def test_the_caption_names_the_furthest(text: str):
    words = said(text, "spent")
    assert "Furthest off: NAEE at" in words
    assert "+6.0%" in words
