"""Activations actually spent against those requested."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.rows import QualityRow, methods
from allocmoe.report.section import Block, Section
from allocmoe.report.style import name, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
0% is the budget itself. Exact rules lie on it; calibrated thresholds hold it only on average. Furthest off:
{{ f.method | name }} at {{ f.budget }}, {{ f.off }}.
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per quality group whose records counted what was spent."""
    for q in found.quality:
        known = [r for r in q.rows if math.isfinite(r.spent)]
        if known:
            most = max(known, key=lambda r: abs(r.spent / r.budget - 1))
            facts = {"method": most.method, "budget": most.budget, "off": f"{most.spent / most.budget - 1:+.1%}"}
            yield Block(q.group.label, spent(known), facts, q.group.model)


def spent(rows: Sequence[QualityRow]) -> Figure:
    """Activations actually spent, as a deviation from the budget requested, per method and budget."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for method in methods(rows):
        mine = [r for r in rows if r.method == method and math.isfinite(r.spent)]
        text = [f"{figures.at(r)}: spent {r.spent:.2f}" for r in mine]
        look = style(method)
        fill = {"pattern": {"shape": look.pattern}} if look.pattern else {}
        fig.add_bar(
            x=[str(r.budget) for r in mine], y=[r.spent / r.budget - 1 for r in mine], hovertext=text, hoverinfo="text",
            marker={"color": look.colour, "line": {"width": 1.5, "color": look.colour}} | fill,
            name=html.escape(name(method)),
        )  # fmt: skip
    most = 1.15 * max(0.01, *(abs(r.spent / r.budget - 1) for r in rows if math.isfinite(r.spent)))
    order = [str(b) for b in sorted({r.budget for r in rows})]
    fig.update_xaxes(type="category", categoryarray=order, title={"text": "budget requested"})
    fig.update_yaxes(tickformat="+.1%", title={"text": "spent over budget"}, zeroline=True, range=[-most, most])
    return figures.finish(fig.update_layout(meta={"budgets": True}), 400)


SECTION = Section("spent", "Spent against requested", blocks, CAPTION)
