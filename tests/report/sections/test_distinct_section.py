"""Quality against distinct experts."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import distinct
from tests.report.made import WHOLE, decoded, quality

EXPERTS = {"original": (WHOLE, 40.5), "uniform": (24, 25.0), "oea": (24, 25.5), "alloc-moe": (16, 16.0)}
RECORDS = [decoded(method, budget, experts) for method, (budget, experts) in EXPERTS.items()]


def test_points_are_the_counted_experts_and_the_paired_ratios():
    found = results(RECORDS)
    (block,) = distinct.blocks(found)
    lines = {trace.name: trace for trace in block.figure.data}
    ratios = {row.method: row.ratio.estimate for row in found.quality[0].rows}
    for method, name in (("uniform", "uniform"), ("oea", "OEA"), ("alloc-moe", "Alloc-MoE")):
        assert lines[name].x[0] == pytest.approx(EXPERTS[method][1], abs=0.2), "a little apart, to be told from others"
        assert lines[name].y[0] == pytest.approx(ratios[method])
    assert block.facts == {"batch": 8, "windows": 32, "original": "40.5"}


def test_windows_in_one_pass_are_not_shown_here():
    assert list(distinct.blocks(results([quality("original", WHOLE), quality("uniform", 24)]))) == []
