"""How far strangers in the same batch move a request's predictions."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from allocmoe.analyses.neighbours import KINDS, NAME
from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import label, parts
from allocmoe.report.style import name, rank, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LEAST = 1e-9
"""Nats below which a divergence is drawn as this."""
CAPTION = """\
A request's window is run beside {{ f.beside }} windows of ordinary text, then beside as many that were chosen to move
it; at half of the activations. How far the request's own predictions move between the two, over {{ f.victims }}
requests; the axis is logarithmic. What plain top-k has is rounding.
<div class="scroll"><table>
<thead><tr><th class="t">plan</th><th class="t">beside</th><th>mean KL, nats</th><th>largest of any position</th>
<th>most likely token changes</th></tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td><td class="t">{{ row.beside }}</td>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    for among in parts(found, NAME):
        first = among[0]
        facts = {
            "rows": rows(among),
            "beside": first.setup["text_batch"] - 1,
            "victims": first.setup["analysis"]["victims"],
        }
        yield Block(f"Strangers in the batch: {label(first)}", figure(among), facts)


def rows(among: Sequence[Record]) -> list[dict[str, object]]:
    """Of every plan and kind of neighbours, what moves."""
    ordered = sorted(among, key=lambda r: (rank(r.method or ""), r.setup["analysis"]["beside"]))
    return [
        {
            "method": r.method,
            "beside": KINDS[r.setup["analysis"]["beside"]],
            "cells": [f"{r.metrics['kl']:.2g}", f"{r.metrics['kl_most']:.2g}", f"{100 * r.metrics['flips']:.2f} %"],
        }
        for r in ordered
    ]


def figure(among: Sequence[Record]) -> Figure:
    """Mean divergence by plan, a bar for each kind of neighbours."""
    import plotly.graph_objects as go

    fig = go.Figure()
    methods = sorted({r.method or "" for r in among}, key=rank)
    for number, kind in enumerate(KINDS):
        mine = {r.method: r for r in among if r.setup["analysis"]["beside"] == kind}
        shown = [m for m in methods if m in mine]
        fig.add_bar(
            x=[html.escape(name(m)) for m in shown], y=[max(LEAST, mine[m].metrics["kl"]) for m in shown],
            name=html.escape(KINDS[kind]),
            marker={"color": [style(m).colour for m in shown], "pattern": {"shape": "/" if number else ""}},
            hovertemplate="%{y:.2g} nats<extra></extra>",
        )  # fmt: skip
    fig.update_yaxes(type="log", title={"text": "mean KL divergence, nats"}, tickformat=".0e")
    return figures.finish(fig, 400)


SECTION = Section("neighbours", "How far strangers in the batch move an answer", blocks, CAPTION)
