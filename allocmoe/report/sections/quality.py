"""Quality against budget: perplexity, and accuracy per group of tasks."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.rows import QualityRow, chance, methods
from allocmoe.report.section import Block, Section
from allocmoe.report.style import ORIGINAL, group_name
from allocmoe.stats import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
{% if f.what == "perplexity" %}
Lower is better. Bars: 95% interval of the ratio to the original, paired over {{ f.windows }} windows of the text.
Star and dashed line: the original.
{% else %}
Higher is better; {{ f["items"] }} items in all. Bars: 95% interval of each accuracy by itself, so methods whose bars
overlap may still differ on the same items: the verdicts below compare in pairs. Star: the original. Dashed line:
guessing.
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure of perplexity and one of accuracy per group, as far as they were measured."""
    for q in found.quality:
        facts = {"windows": q.windows, "items": q.items}
        if any(math.isfinite(r.perplexity) for r in q.rows):
            yield Block(f"Perplexity: {q.group.label}", perplexity(q.rows), facts | {"what": "perplexity"})
        if any(r.accuracy for r in q.rows):
            yield Block(f"Accuracy: {q.group.label}", accuracies(q.rows, chance(q.group)), facts | {"what": "accuracy"})


def perplexity(rows: Sequence[QualityRow]) -> Figure:
    """Perplexity against budget; the bars are those of the paired ratio to the original."""
    base = next((r.perplexity for r in rows if r.method == ORIGINAL), math.nan)
    series = {
        m: [(r.budget, Interval(r.perplexity, base * r.ratio.low, base * r.ratio.high)) for r in rows if r.method == m]
        for m in methods(rows)
    }
    axis = figures.perplexity_axis([r.perplexity for r in rows])
    panel = figures.Panel("", series, [base] if math.isfinite(base) else [], axis)
    return figures.panels([panel], figures.budget_axis(rows), 480)


def accuracies(rows: Sequence[QualityRow], levels: Mapping[str, float]) -> Figure:
    """Accuracy against budget, a panel per group of tasks and one for their mean."""
    names = list(dict.fromkeys(n for r in rows for n in r.accuracy))
    panels = []
    for group in names:
        scored = [r for r in rows if group in r.accuracy]
        series = {m: [(r.budget, r.accuracy[group]) for r in scored if r.method == m] for m in methods(scored)}
        guessing = [levels[group]] if group in levels else []
        axis = {"tickformat": ".0%", "title": {"text": "accuracy"}}
        panels.append(figures.Panel(html.escape(group_name(group)), series, guessing, axis))
    return figures.panels(panels, figures.budget_axis(rows), 360 * math.ceil(len(panels) / 2) + 60)


SECTION = Section("quality", "Quality against budget", blocks, CAPTION)
