"""What else is in a batch, under Alloc-T: its size, and which windows share it."""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.analyses.batch import NAME
from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.rows import perplexity_ratio
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import label, parts
from allocmoe.report.style import GREY, ORIGINAL, name, rank, style
from allocmoe.report.words import plain
from allocmoe.stats import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
Perplexity over the unchanged model's, at half of the activations, against the windows that share a forward pass; bars
are 95% intervals, paired by window. The paper gives no numbers: it says that Alloc-T decides among all tokens of a
pass, and evaluates at a batch size that it does not name.
{% if f.rows %}
<div class="scroll"><table>
<thead><tr><th class="t">the same windows, put into batches of {{ f.batch }} in {{ f.orders }} ways</th>
<th>perplexity, lowest and highest</th><th>a window's loss moves by, nats</th><th>at most</th></tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p>How far a window's mean loss per token moves: its standard deviation over the ways, as the mean over the windows and
for the window that moves most. What the unchanged model has is rounding.</p>
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    for among in parts(found, NAME, "text_batch"):
        sizes = [r for r in among if r.setup["analysis"]["order"] == 0]
        whole = {r.setup["text_batch"]: r for r in sizes if r.method == ORIGINAL}
        planned = [r for r in sizes if r.method != ORIGINAL and r.setup["text_batch"] in whole]
        if planned:
            title = f"Alloc-T's batch: {label(planned[0])}"
            yield Block(title, figure(planned, whole), composition(among))


def composition(among: Sequence[Record]) -> dict[str, Any]:
    """Facts of the table: what the order of the windows does, at the batch size that was measured in several."""
    shuffled = [r for r in among if r.setup["analysis"]["order"]]
    batch = shuffled[0].setup["text_batch"] if shuffled else 0
    rows: list[dict[str, Any]] = []
    orders = 0
    same = [r for r in among if r.setup["text_batch"] == batch]
    for method in sorted({r.method or "" for r in same}, key=rank):
        mine = [r for r in same if r.method == method]
        if len(mine) > 1:
            orders = len(mine)
            moves = spreads([r.samples["nll"] for r in mine])
            values = sorted(r.metrics["perplexity"] for r in mine)
            cells = [f"{values[0]:.4f}, {values[-1]:.4f}", f"{statistics.fmean(moves):.4f}", f"{max(moves):.4f}"]
            rows.append({"method": method, "cells": cells})
    return {"rows": rows, "batch": batch, "orders": orders}


def spreads(losses: Sequence[Sequence[float]]) -> list[float]:
    """Standard deviation of each window's loss over the ways it was batched: of [ways][windows], [windows]."""
    return [statistics.stdev(values) for values in zip(*losses, strict=True)]


def figure(planned: Sequence[Record], whole: dict[int, Record]) -> Figure:
    """Perplexity over the unchanged model's against batch size, a line per method."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for method in sorted({r.method or "" for r in planned}, key=rank):
        look = style(method)
        mine = sorted((r for r in planned if r.method == method), key=lambda r: r.setup["text_batch"])
        values: list[Interval] = [perplexity_ratio(r, whole[r.setup["text_batch"]])[0] for r in mine]
        fig.add_scatter(
            x=[r.setup["text_batch"] for r in mine], y=[plain(v.estimate) for v in values], mode="lines+markers",
            name=html.escape(name(method)), line={"color": look.colour, "dash": look.dash},
            marker={"color": look.colour, "symbol": look.symbol, "size": 8},
            error_y={"type": "data", "array": [plain(v.high - v.estimate) for v in values],
                     "arrayminus": [plain(v.estimate - v.low) for v in values], "thickness": 1.1, "width": 2.5},
            hovertemplate="%{y:.4f} with %{x} windows<extra></extra>",
        )  # fmt: skip
    fig.add_hline(1.0, line={"color": GREY, "width": 1, "dash": "dash"})
    sizes = sorted(whole)
    ticks = {"type": "log", "tickvals": sizes, "ticktext": [str(s) for s in sizes]}
    fig.update_xaxes(ticks | {"title": {"text": "windows that share a pass"}})
    fig.update_yaxes(title={"text": "perplexity over the unchanged model's"}, tickformat=".3~g")
    return figures.finish(fig, 400)


SECTION = Section("batch", "Alloc-T and what else is in the batch", blocks, CAPTION)
