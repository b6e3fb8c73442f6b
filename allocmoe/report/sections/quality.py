"""Quality against budget: perplexity, the distance from the original's predictions, and accuracy per group of tasks."""

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
{% elif f.what == "distance" %}
Lower is better: how far predictions on the text are from the original's, over the full vocabulary, and at how many
positions another token is the most likely. Bars: 95% interval over {{ f.windows }} windows.
{% else %}
Higher is better; {{ f["items"] }} items in all. Bars: 95% interval of each accuracy by itself, so methods whose bars
overlap may still differ on the same items: the verdicts below compare in pairs. Star: the original. Dashed line:
guessing.
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """Figures of perplexity, of the distance from the original and of accuracy per group, as far as measured."""
    for q in found.quality:
        facts = {"windows": q.windows, "items": q.items}
        if any(math.isfinite(r.perplexity) for r in q.rows):
            yield Block(
                f"Perplexity: {q.group.label}", perplexity(q.rows), facts | {"what": "perplexity"}, q.group.model
            )
        if any(math.isfinite(r.kl.estimate) for r in q.rows):
            yield Block(
                f"Distance from the original: {q.group.label}",
                distance(q.rows),
                facts | {"what": "distance"},
                q.group.model,
            )
        if any(r.accuracy for r in q.rows):
            yield Block(
                f"Accuracy: {q.group.label}",
                accuracies(q.rows, chance(q.group)),
                facts | {"what": "accuracy"},
                q.group.model,
            )


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


def distance(rows: Sequence[QualityRow]) -> Figure:
    """KL divergence and changed most likely tokens against budget, a panel each."""
    shown = (
        ("KL divergence", "kl", {"title": {"text": "nats"}}),
        ("Changed most likely tokens", "flips", {"tickformat": ".0%", "title": {"text": "share of positions"}}),
    )
    panels = []
    for title, what, axis in shown:
        told = [(r, getattr(r, what)) for r in rows if math.isfinite(getattr(r, what).estimate)]
        series = {m: [(r.budget, v) for r, v in told if r.method == m] for m in methods([r for r, _ in told])}
        panels.append(figures.Panel(title, series, [], axis))
    return figures.panels(panels, figures.budget_axis(rows), 420)


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
