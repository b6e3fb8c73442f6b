"""A table of an analysis, a row per variant and a column per budget, and its figure: what several sections share."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from allocmoe import stats
from allocmoe.analyses import paper
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.rows import attempt, perplexity_ratio
from allocmoe.report.section import Block
from allocmoe.report.studied import Study
from allocmoe.report.style import GREY, MEAN, PALETTE, Style, name, style
from allocmoe.report.words import DASH, plain
from allocmoe.stats import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
<div class="scroll"><table>
<thead><tr><th class="t">{{ f.what }}</th>
{% for budget in f.budgets %}<th>{{ budget }}</th>{% endfor %}
{% for budget in f.theirs %}<th>the paper's, {{ budget }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in f.rows %}
<tr><td class="t">{{ row.label }}</td>
{% for cell, best in row.cells %}<td>{% if best %}<b>{{ cell }}</b>{% else %}{{ cell }}{% endif %}</td>{% endfor %}
{% for cell in row.theirs %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p>Perplexity over the unchanged model's{% if f.scored %}, then mean accuracy less the unchanged model's in
points{% endif %}; the lowest perplexity of a column is bold. In the figure bars are 95% intervals, paired over
{{ f.windows }} windows{% if f.scored %} or by item{% endif %}.
{% if f.theirs %}
The paper's columns are its own mean accuracies in % on {{ f.model }} ({{ f.where }}), another model and other tasks:
compare which row is ahead, not the numbers.
{% endif %}
{{ f.note }}</p>
"""


def blocks(studies: Iterable[Study], title: str, what: str, where: str, table: str, note: str = "") -> Iterator[Block]:
    """A block per study.

    Args:
        title, what: of the block, and of the first column.
        where, table: of the paper's numbers: its own table, and a key of `paper.TABLES`; "" where it has none.
        note: a last sentence of the caption.
    """
    for study in studies:
        yield Block(f"{title}: {study.label}", figure(study), facts(study, what, where, table, note))


def ratio(study: Study, record: Record) -> Interval:
    """Perplexity over the unchanged model's."""
    return perplexity_ratio(record, study.original)[0]


def points(study: Study, record: Record) -> Interval:
    """Mean accuracy less the unchanged model's, in points; unknown where no tasks were measured."""
    named = list((record.details.get("groups") or {}).values())
    if not named:
        return stats.UNKNOWN
    sides = [r.samples.get("tasks", {}) for r in (record, study.original)]
    found, _ = attempt(stats.group_difference, *sides, named)
    return Interval(*(100 * v for v in found))


def facts(study: Study, what: str, where: str, table: str, note: str) -> dict[str, Any]:
    """What the caption tells of a study."""
    theirs = paper.TABLES.get(table, {}).get(study.shape, {})
    budgets = sorted(paper.BUDGETS[study.shape], reverse=True) if theirs else []
    lowest = {
        b: min((row[b].metrics["perplexity"] for row in study.rows.values() if b in row), default=math.nan)
        for b in study.budgets
    }
    rows = []
    for row in dict.fromkeys([*study.rows, *theirs]):
        mine = study.rows.get(row, {})
        cells = [
            (_cell(study, mine[b]), mine[b].metrics["perplexity"] == lowest[b]) if b in mine else (DASH, False)
            for b in study.budgets
        ]
        others = [paper.accuracy(table, study.shape, row, b) for b in budgets]
        shown = [f"{v:.2f}" if v is not None else DASH for v in others]
        rows.append({"label": _name(row), "cells": cells, "theirs": shown})
    return {
        "what": what, "budgets": study.budgets, "theirs": budgets, "rows": rows, "note": note, "where": where,
        "model": paper.MODELS.get(study.shape, ""), "windows": len(study.original.samples.get("nll", [])),
        "scored": f"group/{MEAN}" in study.original.metrics,
    }  # fmt: skip


def _cell(study: Study, record: Record) -> str:
    rise, gain = ratio(study, record).estimate - 1, points(study, record).estimate
    if not math.isfinite(rise):
        return DASH
    return f"{rise:+.1%}" + (f", {gain:+.1f}" if math.isfinite(gain) else "")


def _name(row: str) -> str:
    return name(row) if row in METHODS else row


def figure(study: Study) -> Figure:
    """Perplexity over the unchanged model's against budget, and accuracy beside it where it was measured."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    scored = f"group/{MEAN}" in study.original.metrics
    fig = make_subplots(1, 1 + scored, horizontal_spacing=0.1)
    looks = [style(row) if row in METHODS else _look(i) for i, row in enumerate(study.rows)]
    for column, value in enumerate((ratio, points)[: 1 + scored], start=1):
        for (row, places), look in zip(study.rows.items(), looks, strict=True):
            known = sorted((b, value(study, r)) for b, r in places.items())
            fig.add_trace(_line(go, _name(row), known, look, column == 1), 1, column)
        fig.add_hline(1.0 if column == 1 else 0.0, line={"color": GREY, "width": 1, "dash": "dash"}, row=1, col=column)
        ticks = {"tickvals": study.budgets, "title": {"text": "budget: activations per token"}}
        fig.update_xaxes(ticks, row=1, col=column)
    title = "perplexity over the unchanged model's"
    fig.update_yaxes(_axis(study) | {"title": {"text": title}}, row=1, col=1)
    if scored:
        fig.update_yaxes({"title": {"text": "accuracy, points"}}, row=1, col=2)
    return figures.finish(fig, 440)


def _axis(study: Study) -> dict[str, Any]:
    """Logarithmic where some rows lose far more than others."""
    rises = [ratio(study, r).estimate for row in study.rows.values() for r in row.values()]
    return {"type": "log"} if max(rises, default=1) > figures.WIDE * min(rises, default=1) else {"tickformat": ".3~g"}


def _look(number: int) -> Style:
    """Of a row that is no method."""
    return PALETTE[1 + number % (len(PALETTE) - 1)]


def _line(go: Any, title: str, known: list[tuple[int, Interval]], look: Style, listed: bool) -> Any:
    values = [value for _, value in known]
    above, below = [plain(v.high - v.estimate) for v in values], [plain(v.estimate - v.low) for v in values]
    return go.Scatter(
        x=[b for b, _ in known], y=[plain(v.estimate) for v in values], mode="lines+markers", name=html.escape(title),
        legendgroup=title, showlegend=listed, line={"color": look.colour, "width": 1.6, "dash": look.dash},
        marker={"color": look.colour, "symbol": look.symbol, "size": 7},
        error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.1, "width": 2.5},
        text=[f"{html.escape(title)} @ {b}: {v.estimate:.4g} ({v.low:.4g} to {v.high:.4g})" for b, v in known],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
