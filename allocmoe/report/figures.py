"""What the sections' figures share: panels of intervals, heatmaps, axes and the finish; one look per method.

Figures have no colours of their own for text, grid and background: the page sets those, because they follow
the reader's light or dark setting.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from allocmoe.report.rows import QualityRow
from allocmoe.report.style import FOCUS, GREY, ORIGINAL, name, style
from allocmoe.report.words import plain
from allocmoe.stats import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WIDE = 3.0
"""A perplexity axis is logarithmic where its largest value is more than this many times its smallest."""

FAR, FEWEST, ROOM = 1.5, 8, 0.06
"""Interquartile ranges to a fence; values of which none is called far off; of an axis, beyond its values."""


OFF = "off"
"""Marks a trace of values that stand in their line already, but that the axis does not show."""


@dataclass(frozen=True)
class Panel:
    """One set of axes: a series of (x, interval) per method, and horizontal reference lines."""

    title: str
    series: Mapping[str, Sequence[tuple[float, Interval]]]
    references: Sequence[float]
    axis: Mapping[str, Any]


def panels(shown: Sequence[Panel], x_axis: Mapping[str, Any], height: int, budgets: bool = True) -> Figure:
    """Panels two a line, on one x axis; a method stands in the legend once. Values far off become marks at the edge.

    `budgets`: whether x is a budget, or the share of one, by which a reader may choose.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns, lines = min(2, len(shown)), math.ceil(len(shown) / 2)
    space = {"horizontal_spacing": 0.09, "vertical_spacing": 0.2 / lines}
    fig = make_subplots(lines, columns, subplot_titles=[p.title for p in shown], **space)
    listed: set[str] = set()
    xs = sorted({x for p in shown for points in p.series.values() for x, _ in points})
    gap = min((b - a for a, b in pairwise(xs)), default=1.0)
    for number, panel in enumerate(shown):
        row, column = number // columns + 1, number % columns + 1
        ends = window(panel)
        for place, (method, points) in enumerate(panel.series.items()):
            # a little apart, so that the bars of the methods at one budget can be told from each other
            step = min(0.03, 0.33 / len(panel.series))
            shift = 0.0 if method == ORIGINAL else gap * step * (place - len(panel.series) / 2)
            fig.add_trace(_line(go, method, points, shift, method not in listed), row, column)
            if ends and (off := [(x, v) for x, v in points if v.estimate < ends[0] or v.estimate > ends[1]]):
                fig.add_trace(_off(go, method, off, shift, ends), row, column)
            listed.add(method)
        for level in panel.references:
            fig.add_hline(level, line={"color": GREY, "width": 1, "dash": "dash"}, row=row, col=column)
        fig.update_yaxes(dict(panel.axis) | _range(panel, ends), row=row, col=column)
        low = number + columns >= len(shown)
        fig.update_xaxes({k: v for k, v in x_axis.items() if low or k != "title"}, row=row, col=column)
    return finish(fig.update_layout(meta={"budgets": budgets}), height)


def _line(go: Any, method: str, points: Sequence[tuple[float, Interval]], shift: float, listed: bool) -> Any:
    bold = method == FOCUS
    look = style(method)
    values = [interval for _, interval in points]
    above, below = [plain(v.high - v.estimate) for v in values], [plain(v.estimate - v.low) for v in values]
    return go.Scatter(
        x=[x + shift for x, _ in points], y=[plain(v.estimate) for v in values], customdata=[x for x, _ in points],
        mode="markers" if method == ORIGINAL else "lines+markers", name=html.escape(name(method)), legendgroup=method,
        showlegend=listed, line={"color": look.colour, "width": 3.5 if bold else 1.6, "dash": look.dash},
        marker=marker(method, 9 if bold else 7), opacity=1 if bold else 0.85,
        error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.1, "width": 2.5},
        text=[_said(method, v) for v in values],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def window(panel: Panel) -> tuple[float, float] | None:
    """The values that a panel's axis shows where a few lie far off, see `fence`; None where it shows all of them."""
    if "range" in panel.axis:
        return None
    values = [v.estimate for points in panel.series.values() for _, v in points if math.isfinite(v.estimate)]
    logarithmic = panel.axis.get("type") == "log"
    ends = fence([math.log(v) for v in values] if logarithmic else values)
    return ends and ((math.exp(ends[0]), math.exp(ends[1])) if logarithmic else ends)


def fence(values: Sequence[float]) -> tuple[float, float] | None:
    """The least and the largest value within Tukey's fences, one and a half interquartile ranges beyond the quartiles.

    None where all of them lie within.
    """
    if len(values) < FEWEST:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    inside = [v for v in values if low - FAR * (high - low) <= v <= high + FAR * (high - low)]
    return None if len(inside) == len(values) else (min(inside), max(inside))


def _range(panel: Panel, ends: tuple[float, float] | None) -> dict[str, Any]:
    if ends is None:
        return {}
    logarithmic = panel.axis.get("type") == "log" and max(ends) > WIDE * min(ends)
    bounds = min(*ends, *panel.references), max(*ends, *panel.references)
    low, high = map(math.log10, bounds) if logarithmic else bounds
    shown: dict[str, Any] = {"range": [low - ROOM * (high - low), high + ROOM * (high - low)]}
    if panel.axis.get("type") == "log" and not logarithmic:  # what is left does not differ widely
        shown |= {"type": "linear", "tickvals": None, "ticktext": None, "title": {"text": "perplexity"}}
    return shown


def _off(
    go: Any, method: str, points: Sequence[tuple[float, Interval]], shift: float, ends: tuple[float, float]
) -> Any:
    """Marks at the edge, for values that the axis does not show."""
    above = [v.estimate > ends[1] for _, v in points]
    return go.Scatter(
        x=[x + shift for x, _ in points], y=[ends[1] if up else ends[0] for up in above], mode="markers",
        name=f"{html.escape(name(method))}, off the axis", meta=OFF, legendgroup=method, showlegend=False,
        customdata=[x for x, _ in points], hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        text=[f"{_said(method, v)}, off the axis" for _, v in points],
        marker={"color": style(method).colour, "size": 11, "line": {"width": 2, "color": style(method).colour},
                "symbol": ["arrow-bar-up-open" if up else "arrow-bar-down-open" for up in above]},
    )  # fmt: skip


def _said(method: str, value: Interval) -> str:
    return f"{html.escape(name(method))}: {value.estimate:.4g} ({value.low:.4g} to {value.high:.4g})"


def heatmap(go: Any, z: Any, x: list[Any], y: list[Any], text: str, **options: Any) -> Any:
    """A heatmap trace with the numbers in its cells, unless there are too many columns."""
    return go.Heatmap(
        z=z, x=x, y=y, xgap=1, ygap=1, texttemplate=None if len(x) > 32 else text, textfont={"size": 10},
        hovertemplate="%{y}, %{x}: %{z:.4g}<extra></extra>", **options,
    )  # fmt: skip


def marker(method: str, size: float) -> dict[str, Any]:
    """Colour, symbol and size of a method's markers; a star looks small at the size of a circle."""
    look = style(method)
    return {"color": look.colour, "symbol": look.symbol, "size": size + 4 * (look.symbol == "star")}


def at(row: QualityRow) -> str:
    """A row as a point is called: method and budget."""
    return html.escape(f"{name(row.method)} @ {row.budget}")


def budget_axis(rows: Sequence[QualityRow]) -> dict[str, Any]:
    """An x axis of budgets with their shares of the original's."""
    shares = {r.budget: r.share for r in rows}
    ticks = {b: f"{b}<br>{s:.0%}" if math.isfinite(s) else str(b) for b, s in sorted(shares.items())}
    title = {"text": "budget: activations per token, and share of the original's"}
    return {"tickvals": list(ticks), "ticktext": list(ticks.values()), "title": title}


def perplexity_axis(values: Sequence[float]) -> dict[str, Any]:
    """A y axis of perplexities, logarithmic where they differ widely."""
    known = [v for v in values if math.isfinite(v)]
    if not known or max(known) <= WIDE * min(known):
        return {"title": {"text": "perplexity"}}
    ticks = [m * 10.0**e for e in range(-1, 7) for m in (1, 1.5, 2, 3, 5, 7)]
    return {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{t:g}" for t in ticks],
        "title": {"text": "perplexity (log)"},
    }


def finish(fig: Figure, height: int) -> Figure:
    """The figure with what all of them have: size, legend above, no colours of its own."""
    map_only = fig.data[0].type == "heatmap"
    top, bottom = 30 if map_only else 76, 60
    above = 1 + 28 / (height - top - bottom)
    fig.update_layout(
        template="none", height=height, autosize=True, margin={"l": 64, "r": 24, "t": top, "b": bottom},
        font={"family": "system-ui, sans-serif", "size": 12}, hovermode="closest", paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", legend={"orientation": "h", "yanchor": "bottom", "y": above, "x": 0},
    )  # fmt: skip
    fig.update_xaxes(automargin=True, zeroline=False, showgrid=not map_only)
    return fig.update_yaxes(automargin=True, showgrid=not map_only)
