"""The same training with other seeds: does what leads on one lead on the others?"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from allocmoe.analyses.ablation import METHODS
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import Study, compared
from allocmoe.report.style import GREY, name, style
from allocmoe.report.words import DASH

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
<div class="scroll"><table>
<thead><tr><th class="t">method</th>{% for budget in f.budgets %}<th>{{ budget }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.method | name }}</td>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
<tr><td class="t">lowest</td>{% for cell in f.lowest %}<td>{{ cell }}</td>{% endfor %}</tr>
</tbody></table></div>
<p>Perplexity over the unchanged model's in %, one figure per seed, in this order: {{ f.models | join(", ") }}. A point
of the figure is one seed. The paper reports one model of each kind, and no seeds.</p>
"""
SEED = re.compile(r"-seed-\d+$")


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model that was trained with several seeds."""
    families: dict[str, dict[str, Study]] = {}
    for study in compared(found, METHODS):
        families.setdefault(SEED.sub("", study.original.model), {}).setdefault(study.original.model, study)
    for stem, seeds in families.items():
        studies = list(seeds.values())
        budgets = [b for b in studies[0].budgets if all(b in study.budgets for study in studies)]
        if len(studies) > 1 and budgets:
            yield Block(f"Seeds of {stem}", figure(studies, budgets), facts(studies, budgets))


def rises(study: Study, budget: int) -> dict[str, float]:
    """Method -> perplexity over the unchanged model's, less 1."""
    base = study.original.metrics["perplexity"]
    return {m: row[budget].metrics["perplexity"] / base - 1 for m, row in study.rows.items() if budget in row}


def facts(studies: Sequence[Study], budgets: Sequence[int]) -> dict[str, object]:
    """What the caption tells."""
    told = {b: [rises(study, b) for study in studies] for b in budgets}
    rows = [
        {"method": m, "cells": [" / ".join(f"{100 * r[m]:+.1f}" if m in r else DASH for r in told[b]) for b in budgets]}
        for m in METHODS
    ]
    lowest = [" / ".join(name(min(r, key=r.__getitem__)) for r in told[b]) for b in budgets]
    models = [study.original.model for study in studies]
    return {"rows": rows, "budgets": list(budgets), "lowest": lowest, "models": models}


def figure(studies: Sequence[Study], budgets: Sequence[int]) -> Figure:
    """Perplexity over the unchanged model's, a point per seed, by budget and method."""
    import plotly.graph_objects as go

    fig = go.Figure()
    told: Mapping[int, list[dict[str, float]]] = {b: [rises(study, b) for study in studies] for b in budgets}
    for place, method in enumerate(METHODS):
        look = style(method)
        shift = 0.12 * (place - (len(METHODS) - 1) / 2)
        points = [(i + shift, r[method], s) for i, b in enumerate(budgets)
                  for r, s in zip(told[b], studies, strict=True) if method in r]  # fmt: skip
        fig.add_scatter(
            x=[x for x, _, _ in points], y=[y for _, y, _ in points], mode="markers", name=html.escape(name(method)),
            marker={"color": look.colour, "symbol": look.symbol, "size": 9},
            text=[html.escape(f"{s.original.model}, {name(method)}: {y:+.1%}") for _, y, s in points],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    fig.add_hline(0.0, line={"color": GREY, "width": 1, "dash": "dash"})
    ticks = {"tickvals": list(range(len(budgets))), "ticktext": [str(b) for b in budgets]}
    fig.update_xaxes(ticks | {"title": {"text": "budget: activations per token"}})
    fig.update_yaxes(title={"text": "perplexity over the unchanged model's"}, tickformat="+.0%")
    return figures.finish(fig, 400)


SECTION = Section("seeds", "Other seeds of the same training", blocks, CAPTION)
