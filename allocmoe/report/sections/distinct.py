"""Quality against the distinct experts that a small pass touches, which is what decoding pays for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from allocmoe.allocation.published import OEA_H100
from allocmoe.report import figures
from allocmoe.report.equal import LEADER, Setting, settings
from allocmoe.report.figures import Panel
from allocmoe.report.results import Results
from allocmoe.report.rows import QualityRow, methods
from allocmoe.report.section import Block, Section
from allocmoe.report.style import BASELINE, ORIGINAL, TIMES, rank
from allocmoe.report.words import DASH

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
{% if f.what == "equal" %}
<div class="scroll"><table>
<thead><tr><th>uniform's budget</th><th>distinct experts</th><th>H100, predicted</th>
{% for method in f.methods %}<th>{{ method | name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td>{{ row.budget }}</td><td>{{ row.distinct }}</td><td>{{ row.predicted }}</td>
{% for loss, verdict in row.cells %}<td class="{{ verdict }}">{{ loss }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p>Perplexity above the original's at the distinct experts that uniform touches, read off each method's own line:
straight in the logarithm of perplexity between the two plans measured beside it, window by window. A dash: not measured
there.
{% if f.against %}
By paired 95% intervals {{ f.leader | name }} is ahead of
{% for other, verdicts in f.against %}
{{ other | name }} in {{ verdicts.count("better") }} of {{ verdicts | length }}
{%- if "worse" in verdicts %} (behind in {{ verdicts.count("worse") }}){% endif %}{{ "," if not loop.last else "." }}
{% endfor %}
Red: shown worse than {{ f.leader | name }}; green: shown better.
{% endif %}</p>
<div class="scroll"><table>
<thead><tr><th>uniform's budget</th><th>its loss</th>
{% for method in f.methods %}<th>{{ method | name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td>{{ row.budget }}</td><td>{{ row.loss }}</td>{% for cell in row.needed %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p>The fewest distinct experts with which each method loses no more than uniform does at its budget, and the speedup
that is predicted for so many on an H100. A dash: its measured plans all lose more, or all less.</p>
<p>H100, predicted: time of the original's MoE layers over those with so many distinct experts, by what the authors of
OEA (arXiv 2511.02237) published for one layer of their own model on that card, {{ f.layer }} + {{ f.expert }} D
microseconds. It is a prediction, not a measurement, and this model's experts have another size.</p>
{% else %}
Whole windows routed as if {{ f.batch }} sequences were decoded side by side: each layer decides among {{ f.batch }}
tokens. Distinct experts are means per pass and layer, over {{ f.windows }} windows; bars are 95 % intervals of the
perplexity over the original's, which touches {{ f.original }}. Further left is less to read; lower is better.
{% if f.beyond %}
Lines that leave at the top go on above it: double-click to see all of them.
{% endif %}
{% endif %}
"""
HIGHEST = 1.5
"""Where the axis of perplexity ends: who loses more than half is not choosing between methods any more."""
TURNED = {"better": "worse", "worse": "better"}
"""Of a verdict of the leader on another method: how that other one fares, which is what its cell is about."""

Point = tuple[float, QualityRow]
"""Mean distinct experts per pass and layer, and the row that they belong to."""


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per quality group that was evaluated as if decoding."""
    for q in found.quality:
        if q.group.setup.get("passes") != "decode":
            continue
        counted = [r.spent.get("distinct_per_layer") for r in q.group.records]
        rows = [(fmean(d), row) for d, row in zip(counted, q.rows, strict=True) if d]
        rows = [(d, row) for d, row in rows if math.isfinite(row.ratio.estimate)]
        if len(rows) > 1:
            whole = [d for d, row in rows if row.method == ORIGINAL]
            facts = {
                "batch": q.group.setup["text_batch"],
                "windows": q.windows,
                "beyond": any(row.ratio.estimate > HIGHEST for _, row in rows),
                "original": f"{whole[0]:.1f}" if whole else "more",
            }
            yield Block(q.group.label, distinct(rows), {"what": "figure", **facts}, q.group.model)
        if among := settings(q.group):
            yield Block(f"At equal distinct experts: {q.group.label}", None, equal(among), q.group.model)


def equal(among: Sequence[Setting]) -> dict[str, Any]:
    """Facts of the table: what every method loses at the distinct experts of each setting."""
    shown = sorted({m for setting in among for m in setting.nll} - {ORIGINAL}, key=rank)
    verdicts = [{c.other: c.perplexity for c in setting.compared(LEADER)} for setting in among]
    against = [(other, [found[other] for found in verdicts if other in found]) for other in shown]
    rows = [
        {
            "budget": setting.budget,
            "distinct": f"{setting.distinct:.1f}",
            "predicted": f"{setting.gained(setting.distinct):.2f}{TIMES}",
            "loss": _loss(setting, BASELINE),
            "needed": [_needed(setting, m) for m in shown],
            "cells": [(_loss(setting, m), TURNED.get(found.get(m, ""), "")) for m in shown],
        }
        for setting, found in zip(among, verdicts, strict=True)
    ]
    return {
        "what": "equal",
        "methods": shown,
        "rows": rows,
        "leader": LEADER,
        "against": [(other, found) for other, found in against if found],
        "layer": OEA_H100.layer,
        "expert": OEA_H100.distinct,
    }


def _loss(setting: Setting, method: str) -> str:
    found = setting.ratio(method).estimate
    return f"{found - 1:+.1%}" if math.isfinite(found) else DASH


def _needed(setting: Setting, method: str) -> str:
    found = setting.needed.get(method)
    return f"{found:.1f}, {setting.gained(found):.2f}{TIMES}" if found else DASH


def distinct(points: Sequence[Point]) -> Figure:
    """Perplexity over the original's against distinct experts per pass and layer, a line per method."""
    series = {
        m: sorted((d, row.ratio) for d, row in points if row.method == m) for m in methods([r for _, r in points])
    }  # fmt: skip
    low, high = (pick(row.ratio.estimate for _, row in points) for pick in (min, max))
    axis: dict[str, Any] = {"title": {"text": "perplexity over the original's"}, "tickformat": ".3~g"}
    if high > HIGHEST:
        axis["range"] = [min(low, 1) - 0.05 * (HIGHEST - low), HIGHEST]
    x = {"title": {"text": "distinct experts per layer and step"}}
    return figures.panels([Panel("", series, [1.0], axis)], x, 520, budgets=False)


SECTION = Section("distinct", "Quality against distinct experts", blocks, CAPTION)
