"""Quality against distinct experts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocmoe.report.page import templates
from allocmoe.report.results import results
from allocmoe.report.sections import distinct
from tests.report.made import WHOLE, decoded, quality

pytestmark = pytest.mark.whole

EXPERTS = {"original": (WHOLE, 40.5), "uniform": (24, 25.0), "oea": (24, 25.5), "alloc-moe": (16, 16.0)}
RECORDS = [decoded(method, budget, experts) for method, (budget, experts) in EXPERTS.items()]


def test_points_are_the_counted_experts_and_the_paired_ratios():
    found = results(RECORDS)
    block, _ = distinct.blocks(found)
    lines = {trace.name: trace for trace in block.figure.data}
    ratios = {row.method: row.ratio.estimate for row in found.quality[0].rows}
    for method, name in (("uniform", "uniform"), ("oea", "OEA"), ("alloc-moe", "Alloc-MoE")):
        assert lines[name].x[0] == pytest.approx(EXPERTS[method][1], abs=0.2), "a little apart, to be told from others"
        assert lines[name].y[0] == pytest.approx(ratios[method])
    assert block.facts == {"what": "figure", "batch": 8, "windows": 32, "beyond": False, "original": "40.5"}


def test_the_table_reads_every_method_off_its_own_line():
    more = [decoded("alloc-moe-refill", b, d) for b, d in ((32, 30.0), (16, 20.0))]
    _, block = distinct.blocks(results([*RECORDS, decoded("alloc-moe", 32, 30.0), *more]))
    assert block.figure is None
    assert block.facts["methods"] == ["uniform", "alloc-moe", "alloc-moe-refill"], "OEA's plan touches more"
    (row,) = block.facts["rows"]
    assert (row["budget"], row["distinct"]) == (24, "25.0")
    shown = dict(zip(block.facts["methods"], row["cells"], strict=True))
    leader = float(shown["alloc-moe-refill"][0].rstrip("%"))
    for method, (text, colour) in shown.items():
        if method != "alloc-moe-refill":
            assert colour == ("worse" if float(text.rstrip("%")) > leader else "better"), method
    assert [other for other, _ in block.facts["against"]] == ["uniform", "alloc-moe"]
    assert row["needed"][0].startswith("25.0, ")
    environment = templates()
    environment.filters["name"] = str
    words = environment.from_string(distinct.SECTION.caption).render(f=block.facts)
    assert "33.9 + 2.908 D" in words
    assert "a prediction, not a measurement" in words


def test_who_loses_more_than_half_leaves_at_the_top():
    lost = [decoded("uniform", 16, 16.0)]
    lost = [replace(r, samples={**r.samples, "nll": [v + 1 for v in r.samples["nll"]]}) for r in lost]
    block, _ = distinct.blocks(results([*RECORDS, *lost]))
    assert block.facts["beyond"]
    assert block.figure.layout.yaxis.range[1] == 1.5
    assert (
        max(trace.y[-1] for trace in block.figure.data if trace.name == "uniform") < 1.5 < max(block.figure.data[1].y)
    )


def test_windows_in_one_pass_are_not_shown_here():
    assert list(distinct.blocks(results([quality("original", WHOLE), quality("uniform", 24)]))) == []
