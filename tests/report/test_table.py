"""Tables under figures, and the markers of legends."""

from __future__ import annotations

import math
import re

import pytest
from plotly.graph_objects import Figure

from allocmoe.report import figures
from allocmoe.report.glyphs import glyph, legend
from allocmoe.report.style import PALETTE, style
from allocmoe.report.table import cell, drawn
from allocmoe.stats import Interval


def test_a_figures_table_has_its_points_with_their_intervals():
    series = {
        "uniform": [(24, Interval(2.0, 1.5, 2.5)), (16, Interval(3.0))],
        "alloc-moe": [(24, Interval(1.0, 0.5, 1.5))],
    }
    fig = figures.panels([figures.Panel("Left", series, [], {}), figures.Panel("Right", series, [], {})], {}, 400)
    table = drawn(fig, ["uniform", "alloc-moe"])
    assert list(table.header) == ["panel", "series", "x", "y", "low", "high"]
    assert [[c.value if c.value is not None else c.text for c in row.cells] for row in table.rows[:3]] == [
        ["Left", "uniform", 24, 2.0, 1.5, 2.5], ["Left", "uniform", 16, 3.0, "", ""],
        ["Left", "Alloc-MoE", 24, 1.0, 0.5, 1.5],
    ]  # fmt: skip
    assert [(row.method, row.budget) for row in table.rows[:3]] == [("uniform", 24), ("uniform", 16), ("alloc-moe", 24)]
    assert {row.cells[0].text for row in table.rows} == {"Left", "Right"}


def test_a_heatmaps_table_is_its_matrix():
    fig = Figure()
    fig.add_heatmap(z=[[1, 2], [3, 4]], x=["a", "b"], y=["uniform", "other"])
    table = drawn(fig, ["uniform"])
    assert list(table.header) == ["panel", "row", "a", "b"]
    assert [[c.value for c in row.cells[2:]] for row in table.rows] == [[1, 2], [3, 4]]
    assert [row.method for row in table.rows] == ["uniform", ""]


@pytest.mark.parametrize(
    ("value", "text", "known"), [(1.23456, "1.235", 1.23456), (math.nan, "", None), (None, "", None), ("x", "x", None)]
)
def test_a_cell_says_only_what_is_known(value: object, text: str, known: float | None):
    assert (cell(value).text, cell(value).value) == (text, known)


def test_values_far_off_become_marks_at_the_edge_and_the_axis_ends_before_them():
    low = [Interval(1 + i / 10) for i in range(9)]
    series = {"uniform": [(float(i), v) for i, v in enumerate(low)], "seer": [(9.0, Interval(50.0, 40.0, 60.0))]}
    fig = figures.panels([figures.Panel("", series, [0.5], {})], {}, 400)
    (mark,) = [t for t in fig.data if "off the axis" in (t.name or "")]
    assert list(mark.customdata) == [9.0]
    assert "50 (40 to 60), off the axis" in mark.text[0]
    bottom, top = fig.layout.yaxis.range
    assert bottom < 0.5 < mark.y[0] < top < 3
    near = figures.panels([figures.Panel("", {"uniform": series["uniform"]}, [], {})], {}, 400)
    assert near.layout.yaxis.range is None


@pytest.mark.parametrize("values", [[], [1.0] * 3, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]])
def test_nothing_is_far_off_where_all_are_alike(values: list[float]):
    assert figures.fence(values) is None


def test_every_style_has_a_marker_of_its_own():
    drawn_as = {
        re.sub(r'(fill|stroke)="#\w+"', "", glyph(m)) for m in ("original", "uniform", "naee", "alloc-t", "reap")
    }
    assert len(drawn_as) == 5
    assert style("uniform").colour in glyph("uniform")
    fig = Figure()
    for look in PALETTE:
        fig.add_scatter(
            x=[1], y=[1], name=f"<{look.symbol}{look.colour}>", marker={"color": look.colour, "symbol": look.symbol}
        )
    fig.add_scatter(x=[1], y=[1], name="again", showlegend=False)
    entries = legend(fig)
    assert [name for name, _ in entries] == [f"<{look.symbol}{look.colour}>" for look in PALETTE]
    assert len({sign for _, sign in entries}) == len(PALETTE)
