"""Expert load under a plan against the unchanged model's, beside the paper's Figures 7 and 8."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.analyses import load, paper
from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import label, parts
from allocmoe.report.style import FOCUS, GREY, ORIGINAL, name, rank, style
from allocmoe.report.words import DASH, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
{% if f.what == "layer" %}
Share of a layer's activations that each expert takes, hottest first on the unchanged model. Under the plan the layer
activates {{ f.fewer }} as many. The paper shows the same of the tenth MoE layer of DeepSeek-V2-Lite (its Figure 7).
{% else %}
<div class="scroll"><table>
<thead><tr><th class="t">plan</th><th>budget</th><th>rank correlation</th><th>change of normalised entropy</th>
<th>Jensen-Shannon divergence, bits</th></tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td><td>{{ row.budget }}</td>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
<tr><td class="t">the paper's: Alloc-MoE on DeepSeek-V2-Lite (Figure 8)</td><td>78</td>
{% for cell in f.theirs %}<td>{{ cell }}</td>{% endfor %}</tr>
</tbody></table></div>
<p>From the layer with the smallest value to that with the largest. Spearman's correlation and the entropy are of the
activations of each expert, the divergence is of the weighted loads: the sums of combine weights. The figure has every
layer under plans at half of the activations. Whether the paper's divergence is in bits or nats it does not say.</p>
{% endif %}
"""
TITLES = {
    "spearman": "Rank correlation",
    "entropy_change": "Change of entropy",
    "divergence": "Jensen-Shannon, bits",
}

Statistics = Mapping[str, Sequence[float | None]]


def blocks(found: Results) -> Iterator[Block]:
    """Per model the statistics by layer with their table, and the load of one layer."""
    for among in parts(found, load.NAME):
        whole = next((r for r in among if r.method == ORIGINAL), None)
        plans = sorted((r for r in among if r is not whole), key=lambda r: (rank(r.method or ""), -(r.budget or 0)))
        if not whole or not plans:
            continue
        told = {r.key: load.statistics(whole.samples, r.samples) for r in plans}
        half = [r for r in plans if 2 * (r.budget or 0) == whole.budget] or plans
        rows = [{"method": r.method, "budget": r.budget, "cells": cells(told[r.key])} for r in plans]
        theirs = [paper.LOAD[statistic] for statistic in load.STATISTICS]
        shown = by_layer([(r, told[r.key]) for r in half])
        yield Block(f"Load of experts: {label(whole)}", shown, {"what": "table", "rows": rows, "theirs": theirs})
        one = next((r for r in half if r.method == FOCUS), half[-1])
        layer = min(9, len(whole.samples["activations"]) - 1)
        before, after = (np.asarray(r.samples["activations"][layer]) for r in (whole, one))
        title = f"MoE layer {layer}, {name(one.method or '')} at {one.budget}: {label(whole)}"
        yield Block(title, of_layer(before, after), {"what": "layer", "fewer": f"{after.sum() / before.sum():.0%}"})


def cells(found: Statistics) -> list[str]:
    """Smallest to largest of each statistic over the layers."""
    texts = []
    for statistic, form in zip(load.STATISTICS, (".3f", "+.3f", ".4f"), strict=True):
        known = [v for v in found[statistic] if v is not None]
        texts.append(f"{min(known):{form}} to {max(known):{form}}" if known else DASH)
    return texts


def by_layer(plans: Sequence[tuple[Record, Statistics]]) -> Figure:
    """The three statistics against the layer, a panel each and a line per plan."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(1, 3, subplot_titles=list(TITLES.values()), horizontal_spacing=0.08)
    for column, statistic in enumerate(load.STATISTICS, start=1):
        for record, found in plans:
            look = style(record.method or "")
            values = plain(list(found[statistic]))
            fig.add_trace(go.Scatter(
                x=list(range(len(values))), y=values, mode="lines+markers", name=html.escape(name(record.method or "")),
                legendgroup=record.method, showlegend=column == 1, line={"color": look.colour, "dash": look.dash},
                marker={"color": look.colour, "symbol": look.symbol, "size": 6},
            ), 1, column)  # fmt: skip
        fig.update_xaxes({"title": {"text": "MoE layer"}}, row=1, col=column)
    return figures.finish(fig, 400)


def of_layer(before: np.ndarray, after: np.ndarray) -> Figure:
    """Shares of the activations by expert [N], ordered by the unchanged model's."""
    import plotly.graph_objects as go

    order = np.argsort(-before, kind="stable")
    fig = go.Figure()
    sides: list[tuple[np.ndarray, str, Any]] = [
        (before, "unchanged", {"color": GREY}), (after, "under the plan", {"color": style(FOCUS).colour}),
    ]  # fmt: skip
    for counts, title, look in sides:
        shares = (counts[order] / counts.sum()).tolist()
        text = [f"expert {expert}: {share:.2%}" for expert, share in zip(order.tolist(), shares, strict=True)]
        fig.add_scatter(x=list(range(len(order))), y=shares, mode="lines+markers", name=title, line=look,
                        marker={"size": 5}, text=text, hovertemplate="%{text}<extra></extra>")  # fmt: skip
    fig.update_xaxes(title={"text": "experts, hottest first on the unchanged model"})
    fig.update_yaxes(tickformat=".1%", title={"text": "share of the layer's activations"}, rangemode="tozero")
    return figures.finish(fig, 380)


SECTION = Section("load", "Load of experts", blocks, CAPTION)
