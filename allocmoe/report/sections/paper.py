"""The paper's tables: perplexity, each group of tasks and their mean, of every method at every budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from allocmoe.report.answer import rivals
from allocmoe.report.results import Quality, Results
from allocmoe.report.rows import QualityRow
from allocmoe.report.section import Block, Section
from allocmoe.report.style import MEAN, ORIGINAL, group_name, name
from allocmoe.report.table import Cell, Row, Table, cell
from allocmoe.stats import Interval

CAPTION = """\
{% if f.what == "groups" %}
As in the paper: accuracy in % per group of tasks, the mean over groups, and perplexity of the text. The best of a
budget is bold, among the methods that spend no more than it. Intervals of 95 % on hovering.
{% else %}
Accuracy of each task in %.
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """A table per quality group, and one of the single tasks."""
    for q in found.quality:
        model, label = q.group.model, q.group.label
        yield Block(label, None, {"what": "groups"}, model, table=grouped(q))
        if tasks := by_task(q):
            yield Block(f"Task by task: {label}", None, {"what": "tasks"}, model, table=tasks)


def grouped(q: Quality) -> Table:
    """Rows by budget, downwards, then as methods are listed; the original first."""
    names = list(dict.fromkeys(g for r in q.rows for g in r.accuracy if g != MEAN))
    names += [MEAN] if any(MEAN in r.accuracy for r in q.rows) else []
    header = ["budget", "method", *(f"{group_name(g)}, %".replace(" of the groups", "") for g in names), "perplexity"]
    best = {b: _best(rivals(q, b), names) for b in {r.budget for r in q.rows}}
    rows = []
    for r in _ordered(q.rows):
        top = best[r.budget] if r.method != ORIGINAL else {}
        scores = [_percent(r.accuracy.get(g), top.get(g) == r.method) for g in names]
        bold = "best" if top.get("perplexity") == r.method else ""
        cells = [cell(r.budget), cell(name(r.method)), *scores, _perplexity(r, bold)]
        rows.append(Row(cells, r.method, r.budget))
    return Table(header, rows)


def by_task(q: Quality) -> Table | None:
    """The same of every task; None without tasks."""
    tasks = [t for among in q.group.records[0].details.get("groups", {}).values() for t in among]
    if not tasks:
        return None
    scored = {id(row): record.metrics for record, row in zip(q.group.records, q.rows, strict=True)}
    rows = [
        Row([cell(r.budget), cell(name(r.method)), *(_score(scored[id(r)], t) for t in tasks)], r.method, r.budget)
        for r in _ordered(q.rows)
    ]
    return Table(["budget", "method", *tasks], rows)


def _ordered(rows: Sequence[QualityRow]) -> list[QualityRow]:
    return sorted(rows, key=lambda r: -r.budget)


def _best(among: Sequence[QualityRow], names: Sequence[str]) -> dict[str, str]:
    """Of each column the method that is ahead."""
    found = {
        g: max((r for r in among if g in r.accuracy), key=lambda r: r.accuracy[g].estimate, default=None) for g in names
    }
    known = [r for r in among if math.isfinite(r.perplexity)]
    found["perplexity"] = min(known, key=lambda r: r.perplexity, default=None)
    return {column: r.method for column, r in found.items() if r}


def _percent(value: Interval | None, best: bool) -> Cell:
    if value is None:
        return cell("")
    estimate, low, high = (100 * v for v in value)
    return Cell(f"{estimate:.1f}", value.estimate, f"{low:.1f} to {high:.1f}", "best" if best else "")


def _score(metrics: Mapping[str, float], task: str) -> Cell:
    value = metrics.get(f"acc/{task}")
    return cell("") if value is None else Cell(f"{100 * value:.1f}", value)


def _perplexity(row: QualityRow, look: str) -> Cell:
    return (
        Cell(f"{row.perplexity:.3f}", row.perplexity, _note(row), look) if math.isfinite(row.perplexity) else cell("")
    )


def _note(row: QualityRow) -> str:
    low, high = row.ratio.low, row.ratio.high
    return f"{low:.3f} to {high:.3f} times the original's" if math.isfinite(low) else ""


SECTION = Section("paper", "The paper's tables", blocks, CAPTION, folded=False)
