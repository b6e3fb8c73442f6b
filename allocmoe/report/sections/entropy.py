"""Experts that tokens keep against their routing entropy, beside the paper's Figure 12; and experts by layer."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from allocmoe.analyses import entropy, paper
from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import label, parts
from allocmoe.report.style import name, rank, style
from allocmoe.report.words import DASH, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
<div class="scroll"><table>
<thead><tr><th class="t">plan</th><th>budget</th><th>layers that vary</th><th>Pearson's correlation</th>
<th>Spearman's</th><th>experts in the first half of the layers</th><th>in the second</th></tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td><td>{{ row.budget }}</td>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
<tr><td class="t">the paper's: DeepSeek-V2-Lite (Figure 12, section 4.5)</td><td>78</td><td>{{ f.dash }}</td>
<td>{{ f.theirs }}</td><td>{{ f.dash }}</td><td>more</td><td>fewer</td></tr>
</tbody></table></div>
<p>Correlations over the tokens of a layer, from the layer with the smallest to that with the largest; where all tokens
of a layer keep the same number there is none. Left: experts kept by layer. Middle: the correlation by layer. Right:
mean of the experts kept, by tenths of the tokens from the surest router to the least sure, in MoE layer
{{ f.layer }}.</p>
"""
TITLES = ("Experts kept", "Correlation with entropy", "By entropy, one layer")


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    for among in parts(found, entropy.NAME):
        plans = sorted(among, key=lambda r: (rank(r.method or ""), -(r.budget or 0)))
        layer = shown_layer(plans)
        rows = [{"method": r.method, "budget": r.budget, "cells": cells(r)} for r in plans]
        facts = {"rows": rows, "theirs": paper.CORRELATION, "layer": layer, "dash": DASH}
        yield Block(f"Kept against routing entropy: {label(plans[0])}", figure(plans, layer), facts)


def shown_layer(plans: Sequence[Record]) -> int:
    """The tenth MoE layer, as the paper's, or the nearest one in which the tokens of every plan vary."""
    counts = range(len(plans[0].samples["pearson"]))
    varied = [n for n in counts if all(r.samples["pearson"][n] is not None for r in plans)]
    return min(varied or counts, key=lambda n: (abs(n - 9), n))


def cells(record: Record) -> list[str]:
    """Layers that vary, both correlations from least to most, mean experts in both halves of the depth."""
    sides = [[v for v in record.samples[what] if v is not None] for what in ("pearson", "spearman")]
    spans = [f"{min(known):.2f} to {max(known):.2f}" if known else DASH for known in sides]
    kept = record.samples["kept"]
    middle = len(kept) // 2
    means = [f"{sum(half) / len(half):.2f}" if half else DASH for half in (kept[:middle], kept[middle:])]
    return [f"{len(sides[0])} of {len(kept)}", *spans, *means]


def figure(plans: Sequence[Record], layer: int) -> Figure:
    """Experts kept by layer, the correlation by layer, and experts kept by entropy in one layer; a line per plan."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(1, 3, subplot_titles=TITLES, horizontal_spacing=0.08)
    for record in plans:
        look = style(record.method or "")
        means = entropy.mean_kept(record.samples["counts"][layer])
        edges = record.samples["edges"][layer]
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        depth = list(range(len(record.samples["kept"])))
        lines = [(depth, record.samples["kept"]), (depth, record.samples["pearson"]), (middles, means)]
        for column, (x, y) in enumerate(lines, start=1):
            fig.add_trace(go.Scatter(
                x=x, y=plain(list(y)), mode="lines+markers", name=html.escape(name(record.method or "")),
                legendgroup=record.method, showlegend=column == 1, line={"color": look.colour, "dash": look.dash},
                marker={"color": look.colour, "symbol": look.symbol, "size": 6},
            ), 1, column)  # fmt: skip
    for column, title in enumerate(("MoE layer", "MoE layer", "normalised routing entropy"), start=1):
        fig.update_xaxes({"title": {"text": title}}, row=1, col=column)
    return figures.finish(fig, 400)


SECTION = Section("entropy", "Experts kept and routing entropy", blocks, CAPTION)
