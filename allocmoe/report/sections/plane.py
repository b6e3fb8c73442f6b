"""Speed against quality: only of the same plan on the same routing shape. The page's script draws it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from allocmoe.report.choices import Choice
from allocmoe.report.pairs import pairs
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.table import Cell, Row, Table, cell

CAPTION = """\
{% if f.apart == "shape" %}
This speed was measured on another shape than the models whose quality is here, under other plans, so the two are not
joined.
{% elif f.apart %}
Fewer than two of the plans timed here have both a speedup and a quality, so no speed is joined with it.
{% else %}
Up and to the right is better; the dotted line joins the plans that none beats in both, and the ring is the plan chosen
above. Bars are 95 % intervals. A mark at the edge is a plan that lies further off.
{% for s in f.timed %}
A point of decode or prefill speed is one plan: its quality on {{ f.quality }}, its speed on {{ s.label }},
{% if s.owner %}
onto which the plans of {{ s.owner }} were transplanted layer by layer: a shape of as many MoE layers, experts and
experts per token, with random weights.
{% else %}
both measured on the model itself.
{% endif %}
{{ s.points }} plans were timed. 1\N{MULTIPLICATION SIGN} is the original.
{% endfor %}
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """The plans of each model, and words where a speed could not be joined with any."""
    for choice in found.choices:
        timed = [
            {"label": s.group.label, "owner": s.group.owner.get("model", ""), "points": len(rows)}
            for s, rows in choice.timed
        ]  # fmt: skip
        facts = {"quality": choice.q.group.label, "timed": timed, "apart": "", "plane": choice.q.group.model}
        yield Block(choice.q.group.label, None, facts, choice.q.group.model, table=plans(choice))
    weights = {q.group.fingerprint for q in found.quality}
    for s in found.speed if weights else []:
        if not any(len(pairs(q, s)) > 1 for q in found.quality):
            own = s.group.owner.get("fingerprint", s.group.fingerprint)
            why = "plans" if own in weights else "shape"
            model = s.group.owner.get("model") or s.group.model
            yield Block(f"Not joined: {s.group.label}", None, {"apart": why}, model)


def plans(choice: Choice) -> Table:
    """Every plan with what it costs and loses."""
    about = choice.about
    columns = {**about["costs"], **about["measures"]}
    several = len(about["engines"]) > 1
    header = ["method", "budget", *(_column(key, title, about, several) for key, title in columns.items()), "plan"]
    rows = []
    for p in about["points"]:
        values = [(p["costs"] | p["losses"]).get(key) for key in columns]
        cells = [cell(p["name"]), cell(p["budget"]), *(_interval(v) for v in values), cell(p["plan"] or "")]
        rows.append(Row(cells, p["method"], p["budget"]))
    return Table(header, rows)


def _column(key: str, title: str, about: dict[str, Any], several: bool) -> str:
    unit = {"perplexity": "perplexity lost, %"}.get(key, title + (", %" if key in about["measures"] else ""))
    return unit + (f", {about['engines'][key.split(':')[1]]}" if several and ":" in key else "")


def _interval(value: dict[str, Any] | None) -> Cell:
    if not value:
        return cell("")
    apart = value["low"] is not None and value["low"] != value["high"]
    return cell(value["estimate"], note=f"{value['low']:.4g} to {value['high']:.4g}" if apart else "")


SECTION = Section("plane", "Speed against quality", blocks, CAPTION, folded=False)
