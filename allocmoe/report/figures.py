"""Figures: rows of `allocmoe.report.tables` drawn with plotly, one colour and marker per method throughout.

Every function returns a plotly Figure without colours of its own for text, grid and background: the
page sets those, because they follow the reader's light or dark setting.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from allocmoe.report.tables import FOCUS, MEAN, ORIGINAL, QualityRow, SpeedRow, front, methods, plain, rank
from allocmoe.stats import Interval

if TYPE_CHECKING:
    import numpy as np
    from plotly.graph_objects import Figure

    from allocmoe.records import Record

GREY = "#7f8790"
STYLE = {
    "original": (GREY, "star", "solid"),
    "uniform": ("#3b7dd8", "circle", "solid"),
    "ascending": ("#17a2a2", "triangle-up", "dot"),
    "descending": ("#4f9d3a", "triangle-down", "dot"),
    "lexi": ("#9b6bd0", "square", "dash"),
    "alloc-l": ("#f08a24", "diamond", "dash"),
    "dynamic-moe": ("#b5942b", "pentagon", "dashdot"),
    "naee": ("#a56a4c", "hexagon", "dashdot"),
    "alloc-t": ("#d65fa5", "cross", "dash"),
    "alloc-moe": ("#e0312c", "circle", "solid"),
}
UNKNOWN_STYLE = (GREY, "x", "dot")
NAMES = {
    "lexi": "LExI", "alloc-l": "Alloc-L", "dynamic-moe": "Dynamic-MoE", "naee": "NAEE",
    "alloc-t": "Alloc-T", "alloc-moe": "Alloc-MoE",
}  # fmt: skip
GROUPS = {"nlu": "NLU", "reasoning": "Reasoning", "math": "Math", MEAN: "Mean of the groups"}
PHASES = {"prefill": "Prefill", "decode": "Decode"}
TIMES = "\N{MULTIPLICATION SIGN}"
WIDE = 3.0
"""A perplexity axis is logarithmic where its largest value is more than this many times its smallest."""


@dataclass(frozen=True)
class Panel:
    """One set of axes: a series of (x, interval) per method, and horizontal reference lines."""

    title: str
    series: Mapping[str, Sequence[tuple[float, Interval]]]
    references: Sequence[float]
    axis: Mapping[str, Any]


def name(method: str) -> str:
    """How a method is called in figures and prose."""
    return NAMES.get(method, method)


def group_name(group: str) -> str:
    """How a group of tasks is called, with or without the `group/` of its metric."""
    return GROUPS.get(group.removeprefix("group/"), group)


def perplexity(rows: Sequence[QualityRow]) -> Figure:
    """Perplexity against budget; the bars are those of the paired ratio to the original."""
    base = next((r.perplexity for r in rows if r.method == ORIGINAL), math.nan)
    series = {
        m: [(r.budget, Interval(r.perplexity, base * r.ratio.low, base * r.ratio.high)) for r in rows if r.method == m]
        for m in methods(rows)
    }
    axis = _perplexity_axis([r.perplexity for r in rows])
    panel = Panel("", series, [base] if math.isfinite(base) else [], axis)
    return _panels([panel], _budget_axis(rows), 480)


def accuracies(rows: Sequence[QualityRow], chance: Mapping[str, float]) -> Figure:
    """Accuracy against budget, a panel per group of tasks and one for their mean."""
    names = list(dict.fromkeys(n for r in rows for n in r.accuracy))
    panels = []
    for group in names:
        series = {m: [(r.budget, r.accuracy[group]) for r in rows if r.method == m] for m in methods(rows)}
        levels = [chance[group]] if group in chance else []
        axis = {"tickformat": ".0%", "title": {"text": "accuracy"}}
        panels.append(Panel(html.escape(group_name(group)), series, levels, axis))
    return _panels(panels, _budget_axis(rows), 360 * math.ceil(len(panels) / 2) + 60)


def speed(rows: Sequence[SpeedRow]) -> Figure:
    """Speedup over the original against the share of its activations, prefill beside decode."""
    panels = []
    for phase, title in PHASES.items():
        series = {m: [(r.share, getattr(r, phase)) for r in rows if r.method == m] for m in methods(rows)}
        axis = {"ticksuffix": TIMES, "title": {"text": "speedup"}}
        panels.append(Panel(title, series, [1.0], axis))
    shares = sorted({r.share for r in rows})
    x = {"tickvals": shares, "ticktext": [f"{s:.0%}" for s in shares], "title": {"text": "share of the activations"}}
    return _panels(panels, x, 440)


def plane(pairs: Sequence[tuple[QualityRow, SpeedRow]], phase: str) -> Figure:
    """Speedup of a phase against perplexity and mean accuracy, up and right is better, with the Pareto front."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    scored = all(MEAN in q.accuracy for q, _ in pairs)
    fig = make_subplots(1, 1 + scored, horizontal_spacing=0.09)
    gains = [getattr(s, phase).estimate for _, s in pairs]
    pad = 0.12 * (max(gains) - min(gains) or 1)
    for column in range(1, 2 + scored):
        heights = [q.accuracy[MEAN].estimate if column == 2 else q.perplexity for q, _ in pairs]
        for method in methods([q for q, _ in pairs]):
            mine = [i for i, (q, _) in enumerate(pairs) if q.method == method]
            trace = go.Scatter(
                x=[gains[i] for i in mine], y=[heights[i] for i in mine], mode="markers", opacity=0.9,
                marker=_marker(method, 12 if method == FOCUS else 8), name=html.escape(name(method)),
                legendgroup=method, showlegend=column == 1, text=[_at(pairs[i][0]) for i in mine],
                hovertemplate=f"%{{text}}: %{{x:.2f}}{TIMES}, %{{y:.4g}}<extra></extra>",
            )  # fmt: skip
            fig.add_trace(trace, 1, column)
        costs = [-h if column == 2 else math.log(h) for h in heights]
        edge = front(list(zip(gains, costs, strict=True)))
        labels = _roomy([(gains[i], costs[i], pairs[i][0].method == FOCUS) for i in edge])
        trace = go.Scatter(
            x=[gains[i] for i in edge], y=[heights[i] for i in edge], mode="lines+text", name="Pareto front",
            line={"color": GREY, "width": 1.5, "dash": "dot"}, showlegend=False, hoverinfo="skip", cliponaxis=False,
            text=[_at(pairs[i][0]) if n in labels else "" for n, i in enumerate(edge)], textposition="top right",
        )  # fmt: skip
        fig.add_trace(trace, 1, column)
        span = {"range": [min(gains) - pad, max(gains) + 3 * pad], "ticksuffix": TIMES}
        fig.update_xaxes(span | {"title": {"text": f"{phase} speedup"}}, row=1, col=column)
        best = {"tickformat": ".0%", "title": {"text": "mean accuracy"}}
        y = best if column == 2 else _perplexity_axis(heights) | {"autorange": "reversed"}
        fig.update_yaxes(y, row=1, col=column)
    return _finish(fig, 480)


def layers(records: Sequence[Record]) -> Figure:
    """k_l per layer as heatmaps, one block per budget with a row per method."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    budgets = sorted({r.budget for r in records if r.budget}, reverse=True)
    blocks = [sorted((r for r in records if r.budget == b), key=lambda r: rank(r.method or "")) for b in budgets]
    count = sum(map(len, blocks))
    fig = make_subplots(
        len(blocks), 1, shared_xaxes=True, row_heights=[len(b) for b in blocks],
        vertical_spacing=min(0.08, 34 / (24 * count + 34 * len(blocks))), 
        subplot_titles=[f"budget {b}" for b in budgets],
    )  # fmt: skip
    for number, block in enumerate(blocks, start=1):
        z = [r.details["layers"] for r in block][::-1]
        rows = [html.escape(name(r.method or "")) for r in block][::-1]
        fig.add_trace(_heatmap(go, z, list(range(len(z[0]))), rows, "%{z:.3~g}", coloraxis="coloraxis"), number, 1)
    fig.update_xaxes(title={"text": "MoE layer"}, row=len(blocks), col=1)
    fig.update_layout(coloraxis={"colorscale": "YlGnBu", "cmin": 1, "showscale": False})
    return _finish(fig, 24 * count + 34 * len(blocks) + 70)


def sensitivity(tables: Mapping[str, tuple[np.ndarray, str]]) -> Figure:
    """Matrices [L, K] side by side, each with the number format of its cells: a row per layer, a column per k."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(tables), subplot_titles=list(tables), horizontal_spacing=0.12)
    for column, (table, form) in enumerate(tables.values(), start=1):
        depth, top_k = table.shape
        shown = {"colorscale": "OrRd", "showscale": False}
        z, k = plain(table.tolist()), list(range(1, top_k + 1))
        fig.add_trace(_heatmap(go, z, k, list(range(depth)), "%{z:" + form + "}", **shown), 1, column)
        fig.update_xaxes(title={"text": "experts k in this layer"}, dtick=1, row=1, col=column)
        fig.update_yaxes(title={"text": "MoE layer"}, autorange="reversed", dtick=1, row=1, col=column)
    return _finish(fig, 26 * max(len(table) for table, _ in tables.values()) + 130)


def spent(rows: Sequence[QualityRow]) -> Figure:
    """Activations actually spent, as a deviation from the budget requested, per method and budget."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for method in methods(rows):
        mine = [r for r in rows if r.method == method and math.isfinite(r.spent)]
        text = [f"{_at(r)}: spent {r.spent:.2f}" for r in mine]
        colour = STYLE.get(method, UNKNOWN_STYLE)[0]
        fig.add_bar(
            x=[str(r.budget) for r in mine], y=[r.spent / r.budget - 1 for r in mine], hovertext=text, hoverinfo="text",
            marker={"color": colour, "line": {"width": 1.5, "color": colour}}, name=html.escape(name(method)),
        )  # fmt: skip
    most = 1.15 * max(0.01, *(abs(r.spent / r.budget - 1) for r in rows if math.isfinite(r.spent)))
    order = [str(b) for b in sorted({r.budget for r in rows})]
    fig.update_xaxes(type="category", categoryarray=order, title={"text": "budget requested"})
    fig.update_yaxes(tickformat="+.1%", title={"text": "spent over budget"}, zeroline=True, range=[-most, most])
    return _finish(fig, 400)


def _panels(panels: Sequence[Panel], x_axis: Mapping[str, Any], height: int) -> Figure:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns, lines = min(2, len(panels)), math.ceil(len(panels) / 2)
    space = {"horizontal_spacing": 0.09, "vertical_spacing": 0.2 / lines}
    fig = make_subplots(lines, columns, subplot_titles=[p.title for p in panels], **space)
    listed: set[str] = set()
    xs = sorted({x for p in panels for points in p.series.values() for x, _ in points})
    gap = min((b - a for a, b in pairwise(xs)), default=1.0)
    for number, panel in enumerate(panels):
        row, column = number // columns + 1, number % columns + 1
        for place, (method, points) in enumerate(panel.series.items()):
            # a little apart, so that the bars of ten methods at one budget can be told from each other
            shift = 0.0 if method == ORIGINAL else gap * 0.03 * (place - len(panel.series) / 2)
            fig.add_trace(_line(go, method, points, shift, method not in listed), row, column)
            listed.add(method)
        for level in panel.references:
            fig.add_hline(level, line={"color": GREY, "width": 1, "dash": "dash"}, row=row, col=column)
        fig.update_yaxes(dict(panel.axis), row=row, col=column)
        low = number + columns >= len(panels)
        fig.update_xaxes({k: v for k, v in x_axis.items() if low or k != "title"}, row=row, col=column)
    return _finish(fig, height)


def _line(go: Any, method: str, points: Sequence[tuple[float, Interval]], shift: float, listed: bool) -> Any:
    bold = method == FOCUS
    colour, _, dash = STYLE.get(method, UNKNOWN_STYLE)
    values = [interval for _, interval in points]
    above, below = [plain(v.high - v.estimate) for v in values], [plain(v.estimate - v.low) for v in values]
    return go.Scatter(
        x=[x + shift for x, _ in points], y=[plain(v.estimate) for v in values],
        mode="markers" if method == ORIGINAL else "lines+markers", name=html.escape(name(method)), legendgroup=method,
        showlegend=listed, line={"color": colour, "width": 3.5 if bold else 1.6, "dash": dash},
        marker=_marker(method, 9 if bold else 7), opacity=1 if bold else 0.85,
        error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.1, "width": 2.5},
        text=[f"{html.escape(name(method))}: {v.estimate:.4g} ({v.low:.4g} to {v.high:.4g})" for v in values],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _heatmap(go: Any, z: Any, x: list[Any], y: list[Any], text: str, **options: Any) -> Any:
    return go.Heatmap(
        z=z, x=x, y=y, xgap=1, ygap=1, texttemplate=None if len(x) > 32 else text, textfont={"size": 10},
        hovertemplate="%{y}, %{x}: %{z:.4g}<extra></extra>", **options,
    )  # fmt: skip


def _marker(method: str, size: float) -> dict[str, Any]:
    colour, symbol, _ = STYLE.get(method, UNKNOWN_STYLE)
    return {"color": colour, "symbol": symbol, "size": size + 4 * (symbol == "star")}


def _roomy(edge: Sequence[tuple[float, float, bool]]) -> set[int]:
    """Which points of a front (gain, cost, whether it matters most) can be labelled without overlap."""
    wide, high = (max(e[k] for e in edge) - min(e[k] for e in edge) or 1.0 for k in (0, 1))
    chosen: set[int] = set()
    for i in sorted(range(len(edge)), key=lambda i: not edge[i][2]):
        gaps = [(abs(edge[i][0] - edge[j][0]) / wide, abs(edge[i][1] - edge[j][1]) / high) for j in chosen]
        if all(x > 0.3 or y > 0.08 for x, y in gaps):
            chosen.add(i)
    return chosen


def _at(row: QualityRow) -> str:
    return html.escape(f"{name(row.method)} @ {row.budget}")


def _budget_axis(rows: Sequence[QualityRow]) -> dict[str, Any]:
    shares = {r.budget: r.share for r in rows}
    ticks = {b: f"{b}<br>{s:.0%}" if math.isfinite(s) else str(b) for b, s in sorted(shares.items())}
    title = {"text": "budget: activations per token, and share of the original's"}
    return {"tickvals": list(ticks), "ticktext": list(ticks.values()), "title": title}


def _perplexity_axis(values: Sequence[float]) -> dict[str, Any]:
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


def _finish(fig: Figure, height: int) -> Figure:
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
