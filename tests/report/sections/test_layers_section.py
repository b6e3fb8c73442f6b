"""Experts per layer."""

from __future__ import annotations

import pytest

from allocmoe.records import Record
from allocmoe.report.results import results
from allocmoe.report.sections import layers
from tests.report.made import BUDGETS, one, plans, speed

pytestmark = pytest.mark.whole


def test_the_maps_are_the_plans(records: list[Record]):
    (block,) = layers.blocks(results(records))
    maps = block.figure.data
    assert len(maps) == len(BUDGETS)
    for trace, budget in zip(maps, BUDGETS, strict=True):
        shown = dict(zip(trace.y, trace.z, strict=True))
        assert list(shown["Alloc-MoE"]) == one(records, "alloc-moe", budget).details["layers"]
        assert list(shown["ascending"]) == one(records, "ascending", budget).details["layers"]
        assert "original" not in shown


def test_without_quality_the_timed_plans_are_shown():
    (block,) = layers.blocks(results([speed(*p) for p in plans("uniform")]))
    assert len(block.figure.data) == len(BUDGETS)
