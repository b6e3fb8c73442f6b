"""Speed against budget beside the paper's Figure 5."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from allocmoe.analyses import paper
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.rows import SpeedRow
from allocmoe.report.section import Block, Section
from allocmoe.report.style import BASELINE, FOCUS, GREY, PHASES, TIMES
from allocmoe.report.words import times

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
<div class="scroll"><table>
<thead><tr><th class="t">method</th><th>share of the activations</th><th>prefill</th><th>decode</th></tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td><td>{{ row.share }}</td>
<td>{{ row.prefill }}</td><td>{{ row.decode }}</td></tr>
{% endfor %}
<tr><td class="t">the paper's: Alloc-MoE on DeepSeek-V2-Lite, one H100</td><td>50%</td>
<td>{{ f.prefill }}</td><td>{{ f.decode }}</td></tr>
</tbody></table></div>
<p>Time of the original over the method's, 95% interval. The star is the paper's number, on another machine and another
model: here {{ f.here }}.</p>
"""
SHOWN = (BASELINE, "lexi", FOCUS)
"""The paper's Figure 5 has LExI and Alloc-MoE; uniform is what both are held against."""


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per speed group in which Alloc-MoE was timed."""
    for s in found.speed:
        rows = [r for r in s.rows if r.method in SHOWN and math.isfinite(r.decode.estimate)]
        if any(r.method == FOCUS for r in rows):
            cells = [
                {"method": r.method, "share": f"{r.share:.0%}", "prefill": times(r.prefill), "decode": times(r.decode)}
                for r in rows
            ]
            theirs = {phase: f"{value:.2f}{TIMES}" for phase, value in paper.SPEEDUPS.items()}
            here = f"{s.group.model}, {s.group.machine.get('gpu') or s.group.machine.get('processor', 'not recorded')}"
            facts = {"rows": cells, "here": here, **theirs}
            yield Block(f"Speedups: {s.group.label}", figure(rows), facts, s.group.owner.get("model") or s.group.model)


def figure(rows: Sequence[SpeedRow]) -> Figure:
    """Speedup over the original against the share of its activations, with the paper's at half."""
    panels = []
    for phase, title in PHASES.items():
        among = [m for m in SHOWN if any(r.method == m for r in rows)]
        series = {m: sorted((r.share, getattr(r, phase)) for r in rows if r.method == m) for m in among}
        axis = {"ticksuffix": TIMES, "title": {"text": "speedup"}}
        panels.append(figures.Panel(title, series, [1.0], axis))
    shares = sorted({r.share for r in rows} | {0.5})
    x = {"tickvals": shares, "ticktext": [f"{s:.0%}" for s in shares], "title": {"text": "share of the activations"}}
    fig = figures.panels(panels, x, 400)
    for column, phase in enumerate(PHASES, start=1):
        fig.add_scatter(
            x=[0.5], y=[paper.SPEEDUPS[phase]], mode="markers", name="the paper's", legendgroup="paper",
            showlegend=column == 1, marker={"color": GREY, "symbol": "star", "size": 13}, row=1, col=column,
            hovertemplate=f"the paper's: %{{y}}{TIMES}<extra></extra>",
        )  # fmt: skip
    return fig


SECTION = Section("speedups", "Speed beside the paper's", blocks, CAPTION)
