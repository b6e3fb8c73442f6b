"""The front of a search: candidates as predicted, the chosen plan as measured, the wish."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocmoe.report import page
from allocmoe.report.results import results
from allocmoe.report.sections import front
from tests.report.made import drawn, plans, quality, said, tuned

pytestmark = pytest.mark.whole

FEW = [quality(*p) for p in plans("uniform", "alloc-moe")]


def figure(**changes: object) -> dict:
    record = tuned()
    (block,) = front.blocks(results([*FEW, replace(record, details=record.details | changes)]))
    assert block.figure is not None
    return block.figure.to_plotly_json()


def test_lines_are_the_predictions_and_the_diamond_is_measured():
    lines = {t["name"]: t for t in figure()["data"]}
    assert set(lines) == {"uniform", "Alloc-MoE", "measured: Alloc-MoE"}
    for name, method in (("uniform", "uniform"), ("Alloc-MoE", "alloc-moe")):
        mine = sorted((p["speedup"], p["loss"][0]) for p in tuned().details["front"] if p["method"] == method)
        assert list(zip(lines[name]["x"], lines[name]["y"], strict=True)) == mine
    chosen = lines["measured: Alloc-MoE"]
    assert (chosen["x"], chosen["y"]) == ((1.31,), (2.5,)) or (list(chosen["x"]), list(chosen["y"])) == ([1.31], [2.5])
    assert chosen["error_x"]["array"][0] == pytest.approx(0.03)
    assert chosen["error_y"]["arrayminus"][0] == pytest.approx(0.6)


def test_the_wish_is_drawn():
    shapes = figure(most=2.0)["layout"]["shapes"]
    assert {(s["x0"], s["x1"]) for s in shapes} == {(1.3, 1.3), (0, 1)}
    assert {(s["y0"], s["y1"]) for s in shapes} == {(0, 1), (2.0, 2.0)}
    assert len(figure(speedup=None)["layout"].get("shapes", ())) == 0


@pytest.mark.whole
def test_the_page_says_what_was_asked_promised_and_measured():
    text = page.render([*FEW, tuned()], "A wish", only=["front"])
    words = said(text, "front")
    assert "Asked for: 1.3x faster, 8 sequences at a time. Met:" in words
    assert "promised 1.33\u00d7 and 2.20 %, measured 1.31\u00d7 (1.28\u20131.34) and 2.50 % (1.90 to 3.10)" in words
    assert len(drawn(text)) == 3


def test_only_what_is_met_is_called_so_and_every_measured_loss_is_in_view():
    document = tuned().details["document"]
    (end,) = document["ends"]
    lossy = {**end, "met": False, "method": "uniform", "measured": {**end["measured"], "loss": [90.0, 80.0, 95.0]}}
    record = replace(tuned(), details={**tuned().details, "document": {**document, "ends": [lossy, end]}})
    words = said(page.render([*FEW, record], "A wish", only=["front"]), "front")
    assert "Met: Alloc-MoE at 40" in words
    assert "uniform at 40" not in words
    assert "The other diamond is the other end" in words
    (block,) = front.blocks(results([*FEW, record]))
    assert block.figure is not None
    assert block.figure.layout.yaxis.range[1] >= 95


def test_without_a_search_there_is_no_section():
    assert list(front.blocks(results(FEW))) == []
