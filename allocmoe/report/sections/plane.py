"""Speed against quality: only of the same plan on the same routing shape."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from allocmoe.records import Record
from allocmoe.report import figures
from allocmoe.report.compare import front
from allocmoe.report.results import Quality, Results, Speed
from allocmoe.report.rows import QualityRow, SpeedRow, methods
from allocmoe.report.section import Block, Section
from allocmoe.report.style import FOCUS, GREY, MEAN, PHASES, TIMES, name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
{% if f.apart == "shape" %}
This speed was measured on another shape than the models whose quality is here, under other plans, so the two are not
joined.
{% elif f.apart %}
Fewer than two of the plans timed here have both a speedup and a quality, so there is no figure.
{% else %}
Up and to the right is better. A point is one plan: its quality on {{ f.quality }}, its speed on {{ f.speed }},
{% if f.owner %}
onto which the plans of {{ f.owner }} were transplanted layer by layer: a shape of as many MoE layers, experts and
experts per token, with random weights.
{% else %}
both measured on the model itself.
{% endif %}
{{ f.points }} points, named in full on hovering. No point beats those on the dotted front in both.
1\N{MULTIPLICATION SIGN} is the original.
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per phase for each quality group and speed group that share plans; words where a speed has none."""
    joined = [(s, list(_planes(q, s))) for q in found.quality for s in found.speed]
    for _, planes in joined:
        yield from planes
    weights = {q.group.fingerprint for q in found.quality}
    for s in found.speed if weights else []:
        if not any(planes for other, planes in joined if other is s):
            own = s.group.owner.get("fingerprint", s.group.fingerprint)
            why = "plans" if own in weights else "shape"
            yield Block(f"Not joined: {s.group.label}", None, {"apart": why})


def pairs(q: Quality, s: Speed) -> list[tuple[QualityRow, SpeedRow]]:
    """Rows of quality and speed of one plan on one routing shape, in the order of the quality rows.

    Either both were measured on the same weights under the same plan, or the speed record says that its
    plan is the quality record's, transplanted layer by layer onto a shape of as many layers, experts and
    experts per token.
    """
    timed = {_plan(r): (r, row) for r, row in zip(s.group.records, s.rows, strict=True)}
    found = []
    for record, row in zip(q.group.records, q.rows, strict=True):
        other, its_row = timed.get((record.fingerprint, record.plan), (None, None))
        if record.plan and other and its_row and _routing(record) == _routing(other):
            found.append((row, its_row))
    return found


def _plan(record: Record) -> tuple[str, str | None]:
    """Weights and digest of the plan that was timed; of the plan that was transplanted, where one was."""
    known = record.details.get("transplanted")
    if isinstance(known, dict):
        return str(known.get("fingerprint")), known.get("plan")
    return record.fingerprint, record.plan


def _routing(record: Record) -> tuple[object, ...]:
    """What a plan and its transplant must share whatever the record claims."""
    return record.method, record.budget, record.details.get("layers"), record.details.get("original_budget")


def _planes(q: Quality, s: Speed) -> Iterator[Block]:
    joined = pairs(q, s)
    for phase in reversed(PHASES):
        points = [(a, b) for a, b in joined if math.isfinite(getattr(b, phase).estimate + a.perplexity)]
        if len(points) > 1:
            facts = {"quality": q.group.label, "speed": s.group.label, "points": len(points), "apart": ""}
            facts["owner"] = s.group.owner.get("model", "")
            title = f"{PHASES[phase]}: {q.group.label}, speed of {s.group.label}"
            yield Block(title, plane(points, phase), facts)


def plane(points: Sequence[tuple[QualityRow, SpeedRow]], phase: str) -> Figure:
    """Speedup of a phase against perplexity and mean accuracy, up and right is better, with the Pareto front."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    scored = all(MEAN in q.accuracy for q, _ in points)
    fig = make_subplots(1, 1 + scored, horizontal_spacing=0.09)
    gains = [getattr(s, phase).estimate for _, s in points]
    pad = 0.12 * (max(gains) - min(gains) or 1)
    for column in range(1, 2 + scored):
        heights = [q.accuracy[MEAN].estimate if column == 2 else q.perplexity for q, _ in points]
        for method in methods([q for q, _ in points]):
            mine = [i for i, (q, _) in enumerate(points) if q.method == method]
            trace = go.Scatter(
                x=[gains[i] for i in mine], y=[heights[i] for i in mine], mode="markers", opacity=0.9,
                marker=figures.marker(method, 12 if method == FOCUS else 8), name=html.escape(name(method)),
                legendgroup=method, showlegend=column == 1, text=[figures.at(points[i][0]) for i in mine],
                hovertemplate=f"%{{text}}: %{{x:.2f}}{TIMES}, %{{y:.4g}}<extra></extra>",
            )  # fmt: skip
            fig.add_trace(trace, 1, column)
        costs = [-h if column == 2 else math.log(h) for h in heights]
        edge = front(list(zip(gains, costs, strict=True)))
        roomy = _roomy([(gains[i], costs[i], points[i][0].method == FOCUS) for i in edge])
        trace = go.Scatter(
            x=[gains[i] for i in edge], y=[heights[i] for i in edge], mode="lines+text", name="Pareto front",
            line={"color": GREY, "width": 1.5, "dash": "dot"}, showlegend=False, hoverinfo="skip", cliponaxis=False,
            text=[figures.at(points[i][0]) if n in roomy else "" for n, i in enumerate(edge)], textposition="top right",
        )  # fmt: skip
        fig.add_trace(trace, 1, column)
        span = {"range": [min(gains) - pad, max(gains) + 3 * pad], "ticksuffix": TIMES}
        fig.update_xaxes(span | {"title": {"text": f"{phase} speedup"}}, row=1, col=column)
        best = {"tickformat": ".0%", "title": {"text": "mean accuracy"}}
        y = best if column == 2 else figures.perplexity_axis(heights) | {"autorange": "reversed"}
        fig.update_yaxes(y, row=1, col=column)
    return figures.finish(fig, 480)


def _roomy(edge: Sequence[tuple[float, float, bool]]) -> set[int]:
    """Which points of a front (gain, cost, whether it matters most) can be labelled without overlap."""
    wide, high = (max(e[k] for e in edge) - min(e[k] for e in edge) or 1.0 for k in (0, 1))
    chosen: set[int] = set()
    for i in sorted(range(len(edge)), key=lambda i: not edge[i][2]):
        gaps = [(abs(edge[i][0] - edge[j][0]) / wide, abs(edge[i][1] - edge[j][1]) / high) for j in chosen]
        if all(x > 0.3 or y > 0.08 for x, y in gaps):
            chosen.add(i)
    return chosen


SECTION = Section("plane", "Speed against quality", blocks, CAPTION)
