"""The history in figures: one per metric, a panel per model, setup and budget, changes marked."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allocmoe import history, metrics
from allocmoe.history import Change, Series
from allocmoe.metrics import METRICS
from allocmoe.report import figures
from allocmoe.report.style import GREY, ORIGINAL, name, rank, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from allocmoe.records import Record

MARKS = {"worse": "#b3261e", "better": "#1c7c3a"}
TICKS = 8
MOST = 12
"""Changes that a caption tells; `allocmoe history` tells all."""


def blocks(records: Sequence[Record]) -> list[tuple[str, Figure, dict[str, Any]]]:
    """Title, figure and facts for the caption of each metric; nothing where no series has two commits."""
    found = history.series(records)
    if all(len(s.points) < 2 for s in found):  # several models, each measured at a commit of its own, say
        return []
    changes, gaps = history.changes(found), history.gaps(found)
    made = []
    for metric, about in METRICS.items():
        mine = [s for s in found if s.metric == metric]
        if not mine:
            continue
        marked = [c for c in changes if c.series.metric == metric]
        open_now = [g for g in gaps if g.series.metric == metric and g.last]
        facts = {
            "noise": about.noise, "lower": about.lower, "minimum": about.minimum, "commits": len(mine[0].commits),
            "changes": [(c.commit.short, c.commit.day, c.direction, history.words(c)) for c in marked[:MOST]],
            "more": max(0, len(marked) - MOST), "alpha": history.ALPHA, "series": len(mine),
            "gaps": [(g.commits[0].short, g.commits[0].day, history.title(g.series)) for g in open_now[:MOST]],
        }  # fmt: skip
        made.append((about.title[0].upper() + about.title[1:], timeline(mine, marked), facts))
    return made


def timeline(found: Sequence[Series], changes: Sequence[Change]) -> Figure:
    """Lines of one metric over commits, broken where a commit was not measured; a ring marks a change.

    Panels are those of (label, budget); the unchanged model, which has a budget of its own, is drawn in
    every panel of its label, unless its values lie far apart.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = _panels(found)
    columns, lines = min(2, len(panels)), math.ceil(len(panels) / 2)
    space = {"horizontal_spacing": 0.09, "vertical_spacing": 0.28 / lines}
    fig = make_subplots(lines, columns, subplot_titles=list(panels), **space)
    listed: set[str] = set()
    for number, members in enumerate(panels.values()):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for one in sorted(members, key=lambda s: rank(s.method)):
            fig.add_trace(_line(go, one, one.method not in listed), **place)
            listed.add(one.method)
        for direction, colour in MARKS.items():
            mine = [c for c in changes if c.direction == direction and any(c.series is s for s in members)]
            if mine:
                fig.add_trace(_rings(go, mine, direction, colour, direction not in listed), **place)
                listed.add(direction)
        if metrics.get(members[0].metric).relative:
            fig.add_hline(1.0, line={"color": GREY, "width": 1, "dash": "dash"}, **place)
    fig.update_xaxes(**_commit_axis(found[0]))
    metric = metrics.get(found[0].metric)
    unit = metric.name + (" / original's" if metric.relative else "")
    fig.update_yaxes(tickformat=metric.tick, title={"text": unit})
    return figures.finish(fig, 300 * lines + 60)


def _panels(found: Sequence[Series]) -> Mapping[str, list[Series]]:
    panels: dict[str, list[Series]] = {}
    for label in dict.fromkeys(s.label for s in found):
        mine = [s for s in found if s.label == label]
        base = [s for s in mine if s.method == ORIGINAL and not metrics.get(s.metric).apart]
        budgets = sorted({s.budget for s in mine if s not in base}, reverse=True)
        several = len({s.label for s in found}) > 1
        for budget in budgets or [s.budget for s in base]:
            own = [s for s in mine if s not in base and s.budget == budget]
            title = html.escape(f"{label}, budget {budget}" if several else f"budget {budget}")
            panels[title] = [*base, *own]
    return panels


def _line(go: Any, one: Series, listed: bool) -> Any:
    look = style(one.method)
    known = dict(zip((p.commit.order for p in one.points), zip(one.points, one.values, strict=True), strict=True))
    text = [
        html.escape(f"{name(one.method)} @ {one.budget}: {known[c.order][1]:.4g}, {c.short} of {c.day}, ")
        + history.plural(len(known[c.order][0].samples), "measurement")
        if c.order in known
        else ""
        for c in one.commits
    ]
    return go.Scatter(
        x=[c.order for c in one.commits], y=[known[c.order][1] if c.order in known else None for c in one.commits],
        mode="lines+markers", connectgaps=False, name=html.escape(name(one.method)), legendgroup=one.method,
        showlegend=listed, line={"color": look.colour, "width": 1.6, "dash": look.dash},
        marker=figures.marker(one.method, 5), text=text, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _rings(go: Any, changes: Sequence[Change], direction: str, colour: str, listed: bool) -> Any:
    values = [next(v for p, v in zip(c.series.points, c.series.values, strict=True) if p.commit == c.commit)
              for c in changes]  # fmt: skip
    return go.Scatter(
        x=[c.commit.order for c in changes], y=values, mode="markers", name=f"{direction} from here",
        legendgroup=f"change {direction}", showlegend=listed, text=[html.escape(history.words(c)) for c in changes],
        marker={"color": colour, "symbol": "circle-open", "size": 15, "line": {"width": 2.5, "color": colour}},
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _commit_axis(one: Series) -> dict[str, Any]:
    every = max(1, math.ceil(len(one.commits) / TICKS))
    shown = one.commits[::-1][::every][::-1]
    return {
        "tickvals": [c.order for c in shown],
        "ticktext": [html.escape(c.hash[:7]) + "<br>" + html.escape(c.day) for c in shown],
        "range": [-0.5, len(one.commits) - 0.5],
    }
