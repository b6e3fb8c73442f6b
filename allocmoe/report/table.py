"""Tables that stand under figures: what a figure draws, or what a section says, in cells that CSV and JSON keep."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocmoe.report.figures import OFF
from allocmoe.report.style import name
from allocmoe.report.words import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as it is read.
        value: as CSV and JSON have it; None for the text.
        note: shown on hovering, an interval say.
        look: a class of the style: "best", "better", "worse", "none".
    """

    text: str
    value: float | int | None = None
    note: str = ""
    look: str = ""


@dataclass(frozen=True)
class Row:
    """Cells, and the method and budget (0: none) that a reader may choose them by."""

    cells: Sequence[Cell]
    method: str = ""
    budget: int = 0


@dataclass(frozen=True)
class Table:
    """A row per header's length of cells."""

    header: Sequence[str]
    rows: Sequence[Row]


def cell(value: Any, digits: int = 4, note: str = "", look: str = "") -> Cell:
    """A number to so many digits, or a text."""
    if isinstance(value, str):
        return Cell(value, None, note, look)
    known = value is not None and math.isfinite(value)
    return Cell(number(float(value), digits) if known else "", value if known else None, note, look)


def drawn(figure: Figure, methods: Sequence[str] = ()) -> Table:
    """What a figure draws: of heatmaps a row per line, else a row per point with its interval.

    Args:
        figure: scatter, bar or heatmap traces.
        methods: those that a trace may be of, by the name that it is drawn with.
    """
    panels = [_plain(a.text) for a in figure.layout.annotations]
    known = {name(method): method for method in methods}
    traces = [t for t in figure.data if t.hoverinfo != "skip" and t.meta != OFF]  # those stand in their lines already
    if traces and all(t.type == "heatmap" for t in traces):
        columns = max((list(t.x) for t in traces), key=len)
        rows = [
            Row((cell(_panel(t, panels)), cell(_plain(y)), *(cell(v) for v in line)), known.get(_plain(y), ""))
            for t in traces for y, line in zip(t.y, t.z, strict=True)
        ]  # fmt: skip
        return Table(("panel", "row", *map(str, columns)), rows)
    budgets = bool((figure.layout.meta or {}).get("budgets"))
    rows = [row for t in traces for row in _points(t, panels, known, budgets)]
    return Table(("panel", "series", "x", "y", "low", "high"), rows)


def _points(trace: Any, panels: Sequence[str], known: dict[str, str], budgets: bool) -> Iterator[Row]:
    label = _plain(trace.name or "")
    xs = trace.x if trace.customdata is None else trace.customdata
    bars = trace.error_y if trace.type == "scatter" else None
    above, below = (getattr(bars, side, None) if bars else None for side in ("array", "arrayminus"))
    for i, (x, y) in enumerate(zip(xs, trace.y, strict=True)):
        if y is None:
            continue
        ends = [y + sign * part[i] if part is not None and part[i] is not None else None
                for sign, part in ((-1, below), (1, above))]  # fmt: skip
        method = known.get(label, "")
        budget = int(float(x)) if budgets and float(x) > 1 else 0  # a share of one is not a budget
        yield Row((cell(_panel(trace, panels)), cell(label), cell(x), cell(y), *map(cell, ends)), method, budget)


def _panel(trace: Any, panels: Sequence[str]) -> str:
    number = int((trace.xaxis or "x")[1:] or 1) - 1
    return panels[number] if number < len(panels) else ""


def _plain(text: Any) -> str:
    return html.unescape(str(text))
