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
<thead><tr><th class="t">plan</th><th>budget</th><th>layers that vary</th><th>Pearson's, all experts</th>
<th>Spearman's</th><th>Pearson's, candidates</th><th>Spearman's</th>
<th>experts in the first half of the layers</th><th>in the second</th></tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td><td>{{ row.budget }}</td>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
<tr><td class="t">the paper's: DeepSeek-V2-Lite (Figure 12, section 4.5)</td><td>78</td><td>{{ f.dash }}</td>
<td colspan="4">{{ f.theirs }}</td><td>more</td><td>fewer</td></tr>
</tbody></table></div>
<p>Correlation of the experts that a token keeps with the entropy of its routing, from the layer with the smallest to
that with the largest; where all tokens of a layer keep the same number there is none. The paper does not say of which
scores its entropy is: here of the scores of all experts, and of a token's K candidates alone. Above: experts kept by
layer, and the correlation by layer (dashed: candidates). Below: mean of the experts kept, by tenths of the tokens from
the surest router to the least sure, in MoE layer {{ f.layer }}.</p>
"""
TITLES = ("Experts kept", "Pearson's correlation", "By entropy over all experts", "By entropy of the candidates")
AXES = ("MoE layer", "MoE layer", "normalised entropy", "normalised entropy")


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
    tables = [r.samples[entropy.KINDS[0]]["pearson"] for r in plans]
    varied = [n for n in range(len(tables[0])) if all(table[n] is not None for table in tables)]
    return min(varied or range(len(tables[0])), key=lambda n: (abs(n - 9), n))


def cells(record: Record) -> list[str]:
    """Layers that vary, the correlations of both kinds from least to most, mean experts in both halves of the depth."""
    kept = record.samples["kept"]
    spans, varied = [], 0
    for kind in entropy.KINDS:
        for what in ("pearson", "spearman"):
            known = [v for v in record.samples[kind][what] if v is not None]
            spans.append(f"{min(known):.2f} to {max(known):.2f}" if known else DASH)
            varied = len(known)
    middle = len(kept) // 2
    means = [f"{sum(half) / len(half):.2f}" if half else DASH for half in (kept[:middle], kept[middle:])]
    return [f"{varied} of {len(kept)}", *spans, *means]


def figure(plans: Sequence[Record], layer: int) -> Figure:
    """Experts kept and correlations by layer, and experts kept by both entropies in one layer; a line per plan."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(2, 2, subplot_titles=TITLES, horizontal_spacing=0.09, vertical_spacing=0.2)
    for record in plans:
        depth = list(range(len(record.samples["kept"])))
        related = [(depth, record.samples[kind]["pearson"]) for kind in entropy.KINDS]
        lines = [(0, depth, record.samples["kept"], "solid"), (1, *related[0], "solid"), (1, *related[1], "dash")]
        for place, kind in enumerate(entropy.KINDS, start=2):
            middles = [(a + b) / 2 for a, b in pairwise(record.samples[kind]["edges"][layer])]
            lines.append((place, middles, entropy.mean_kept(record.samples[kind]["counts"][layer]), "solid"))
        look = style(record.method or "")
        for number, (place, x, y, dash) in enumerate(lines):
            fig.add_trace(go.Scatter(
                x=x, y=plain(list(y)), mode="lines+markers", name=html.escape(name(record.method or "")),
                legendgroup=record.method, showlegend=number == 0, line={"color": look.colour, "dash": dash},
                marker={"color": look.colour, "symbol": look.symbol, "size": 6},
            ), 1 + place // 2, 1 + place % 2)  # fmt: skip
    for place, title in enumerate(AXES):
        fig.update_xaxes({"title": {"text": title}}, row=1 + place // 2, col=1 + place % 2)
    return figures.finish(fig, 640)


SECTION = Section("entropy", "Experts kept and routing entropy", blocks, CAPTION)
