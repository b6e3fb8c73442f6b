"""Experts per layer, as the plans request them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.style import ORIGINAL, name, rank

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
k of each layer as the plan requests it: the mean number of experts a token may use there. Methods with a token rule of
their own spread it unevenly over tokens, and thresholds may spend another amount.
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per model: of those whose quality was measured, else of the timed ones."""
    groups = [q.group for q in found.quality] or found.groups
    for group in {(g.fingerprint, str(g.owner)): g for g in reversed(groups)}.values():
        planned = [r for r in group.records if r.details.get("layers") and r.method != ORIGINAL]
        if planned:
            yield Block(group.model, layers(planned), {}, group.owner.get("model") or group.model)


def layers(records: Sequence[Record]) -> Figure:
    """k_l per layer as heatmaps, one block per budget with a row per method."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    budgets = sorted({r.budget for r in records if r.budget}, reverse=True)
    members = [sorted((r for r in records if r.budget == b), key=lambda r: rank(r.method or "")) for b in budgets]
    count = sum(map(len, members))
    fig = make_subplots(
        len(members), 1, shared_xaxes=True, row_heights=[len(b) for b in members],
        vertical_spacing=min(0.08, 34 / (24 * count + 34 * len(members))),
        subplot_titles=[f"budget {b}" for b in budgets],
    )  # fmt: skip
    for number, block in enumerate(members, start=1):
        z = [r.details["layers"] for r in block][::-1]
        rows = [html.escape(name(r.method or "")) for r in block][::-1]
        fig.add_trace(
            figures.heatmap(go, z, list(range(len(z[0]))), rows, "%{z:.3~g}", coloraxis="coloraxis"), number, 1
        )
    fig.update_xaxes(title={"text": "MoE layer"}, row=len(members), col=1)
    fig.update_layout(coloraxis={"colorscale": "YlGnBu", "cmin": 1, "showscale": False})
    return figures.finish(fig, 24 * count + 34 * len(members) + 70)


SECTION = Section("layers", "Experts per layer", blocks, CAPTION)
