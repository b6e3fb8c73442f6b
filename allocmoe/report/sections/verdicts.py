"""Verdicts: every method against every other one near half of the activations, and Alloc-MoE's in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from allocmoe.report.answer import half
from allocmoe.report.compare import Comparison, matrix
from allocmoe.report.results import Quality, Results
from allocmoe.report.section import Block, Section
from allocmoe.report.style import name
from allocmoe.report.table import Cell, Row, Table, cell
from allocmoe.report.words import number, points, times

CAPTION = """\
<div class="pair">
{% for m in f.matrices %}
<div class="scroll"><table class="matrix">
<caption>{{ m.title }}</caption>
<thead><tr><th></th><th class="t">method</th>
{% for other in f.methods %}<th title="{{ other | name }}" data-method="{{ other }}">{{ loop.index }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for method, cells in m.rows %}
<tr data-method="{{ method }}"><th>{{ loop.index }}</th><th class="t">{{ method | name }}</th>
{% for other, verdict, said in cells %}<td class="{{ f.looks[verdict] }}" data-method="{{ other }}"
 title="{{ said }}">{{ f.signs[verdict] }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
</div>
<p>The row's method against the column's at {{ f.budget }} activations per token, the original at its own:
<span class="better">\N{BLACK UP-POINTING TRIANGLE} better</span>, \N{TILDE OPERATOR} no difference shown,
<span class="worse">\N{BLACK DOWN-POINTING TRIANGLE} worse</span>. Perplexity and divergence from the
unchanged model: a 95 % interval each, paired over {{ f.windows }} windows.
{% if f["items"] %}Accuracy: the interval paired by item and the sign-flip test over
{{ f["items"] }} items, corrected by Holm over the {{ f.pairs }} pairs; a difference is
shown where both say so.{% endif %}</p>
{% if f.numbers %}<p>The table below: Alloc-MoE over the other, at each budget. A ratio of perplexities below 1, or a
positive difference in points, is better. p corrected by Holm over its {{ f.numbers }} rows.</p>{% endif %}
"""
SIGNS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}",
         "~": "\N{TILDE OPERATOR}", "": "", "self": "\N{MIDDLE DOT}"}  # fmt: skip
LOOKS = {"better": "better", "worse": "worse", "~": "none", "": "", "self": "none"}


def blocks(found: Results) -> Iterator[Block]:
    """The matrices of each quality group with more than one method."""
    for q in found.quality:
        budget = half(q.rows)
        compared = matrix(q.group, budget) if budget else {}
        matrices = [m for what in TITLES if (m := _matrix(compared, what, budget))["known"]]
        if matrices or q.verdicts:
            facts = {
                "matrices": matrices, "methods": _methods(compared), "signs": SIGNS, "looks": LOOKS, "budget": budget,
                "windows": q.windows, "items": q.items, "pairs": len(compared) // 2, "numbers": len(q.verdicts),
            }  # fmt: skip
            yield Block(q.group.label, None, facts, q.group.model, table=numbers(q) if q.verdicts else None)


TITLES = {"perplexity": "Perplexity", "divergence": "KL divergence", "accuracy": "Mean accuracy"}


def _methods(compared: Mapping[tuple[str, str], Comparison]) -> list[str]:
    return list(dict.fromkeys(m for m, _ in compared))


def _matrix(compared: Mapping[tuple[str, str], Comparison], what: str, budget: int) -> dict[str, Any]:
    methods = _methods(compared)
    rows = []
    for method in methods:
        cells = []
        for other in methods:
            c = compared.get((method, other))
            cells.append((other, getattr(c, what) if c else "self", _said(c, what) if c else name(method)))
        rows.append((method, cells))
    known = any(getattr(c, what) for c in compared.values())
    return {"title": f"{TITLES[what]} at {budget}", "rows": rows, "known": known}


def _said(c: Comparison, what: str) -> str:
    against = f"{name(c.method)} against {name(c.other)}"
    if what == "perplexity":
        return f"{against}: perplexity {times(c.ratio, 3)}"
    if what == "divergence":
        return f"{against}: {c.kl.estimate:+.4f} ({c.kl.low:+.4f} to {c.kl.high:+.4f}) nats a token"
    return f"{against}: {points(c.difference)} points, p {number(c.p_holm, 2)}"


def numbers(q: Quality) -> Table:
    """Alloc-MoE against every other method at every budget, with intervals and p."""
    header = ("budget", "against", "perplexity ratio", "by perplexity", "mean accuracy, points", "p", "p (Holm)",
              "by accuracy")  # fmt: skip
    rows = []
    for c in q.verdicts:
        shown = [_verdict(c.perplexity), Cell(points(c.difference), _known(c.difference.estimate))]
        cells = [cell(c.budget), cell(name(c.other)), Cell(times(c.ratio, 3), _known(c.ratio.estimate)), *shown]
        last = cell(f"not comparable: {'; '.join(c.notes)}", look="none") if c.notes else _verdict(c.accuracy)
        rows.append(Row([*cells, cell(c.p, 2), cell(c.p_holm, 2), last], c.other, c.budget))
    return Table(header, rows)


def _verdict(value: str) -> Cell:
    return Cell(value, None, "", LOOKS[value])


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


SECTION = Section("verdicts", "Verdicts: method against method", blocks, CAPTION)
