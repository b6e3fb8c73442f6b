"""What `allocmoe tune` found: speed and loss of every candidate, and the chosen plan."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allocmoe.metrics import METRICS
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.style import GREY, name, rank, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
Asked for: {{ f.asked }}, {{ f.batch }} sequences at a time. {{ "Met" if f.met else "Not met; the nearest" }}:
{% for e in f.ends if e.met or not f.met %}
{{ e.method | name }} at {{ e.budget }}: promised {{ "%.2f" | format(e.promised.speedup) }}\N{MULTIPLICATION SIGN} and
{{ "%.2f" | format(e.promised.loss) }} {{ f.unit }}, measured
{{ "%.2f" | format(e.measured.speedup[0]) }}\N{MULTIPLICATION SIGN}
({{ "%.2f" | format(e.measured.speedup[1]) }}\N{EN DASH}{{ "%.2f" | format(e.measured.speedup[2]) }}) and
{{ "%.2f" | format(e.measured.loss[0]) }} {{ f.unit }}
({{ "%.2f" | format(e.measured.loss[1]) }} to {{ "%.2f" | format(e.measured.loss[2]) }}), prefill
{{ "%.2f" | format(e.measured.prefill_speedup[0]) }}\N{MULTIPLICATION SIGN}{{ ";" if not loop.last else "." }}
{% endfor %}
{% if f.met and f.ends | rejectattr("met") | list %}The other diamond is the other end of the front.{% endif %}

Lines are the candidates' first look, on little text, with speeds predicted from the distinct experts and pairs that
they spend as if decoding, off by {{ "%.0f" | format(100 * f.prediction_error) }} % at most on plans that were kept out
of the fit. Diamonds are measured, speed as timed on {{ f.timed }} with {{ f.engine }}, loss on text that chose nothing.
Bars are 95 % intervals. Right and down is better; the dashed lines are the wish.
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per search."""
    for record in found.records:
        if record.about == "tune":
            told = record.details
            document = told["document"]
            unit = METRICS[document["metric"]].unit
            facts = {**document, "unit": f"{unit} of {METRICS[document['metric']].title}" if unit != "%" else "%"}
            facts |= {"timed": record.setup["timed"], "engine": record.setup["engine"]}
            yield Block(
                f"{record.model}: {document['asked']}", front(told, document["ends"], unit), facts, record.model
            )


def front(told: Mapping[str, Any], ends: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Loss against speedup: a line per method of what was predicted, and the chosen plans as they were measured."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for method in sorted({p["method"] for p in told["front"]}, key=rank):
        mine = sorted((p for p in told["front"] if p["method"] == method), key=lambda p: p["speedup"])
        text = [f"{html.escape(name(method))} @ {p['budget']}: {p['speedup']:.2f}x predicted" for p in mine]
        look = style(method)
        fig.add_scatter(
            x=[p["speedup"] for p in mine], y=[p["loss"][0] for p in mine], mode="lines+markers", opacity=0.7,
            name=html.escape(name(method)), line={"color": look.colour, "dash": look.dash, "width": 1.6},
            marker=figures.marker(method, 6), text=text, hovertemplate="%{text}, loss %{y:.3g}<extra></extra>",
        )  # fmt: skip
    for end in ends:
        speed, lost = end["measured"]["speedup"], end["measured"]["loss"]
        fig.add_scatter(
            x=[speed[0]], y=[lost[0]], mode="markers", name=f"measured: {html.escape(name(end['method']))}",
            marker={"symbol": "diamond", "size": 13, "color": style(end["method"]).colour},
            error_x=_bars(speed), error_y=_bars(lost),
        )  # fmt: skip
    if told["speedup"]:
        fig.add_vline(told["speedup"], line={"color": GREY, "dash": "dash", "width": 1})
    if told["most"] is not None:
        fig.add_hline(told["most"], line={"color": GREY, "dash": "dash", "width": 1})
    fig.update_xaxes(title={"text": "speedup of a decode step"}, tickformat=".2f")
    fig.update_yaxes(title={"text": f"loss, {unit}"}, **_window(told, ends))
    return figures.finish(fig, 520)


def _bars(interval: Sequence[float]) -> dict[str, Any]:
    value, low, high = interval
    return {"type": "data", "array": [high - value], "arrayminus": [value - low], "thickness": 1.3, "width": 4}


def _window(told: Mapping[str, Any], ends: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The losses that matter, some times what is chosen or asked for: at least budgets a method may lose anything."""
    near = [end["measured"]["loss"][2] for end in ends] + [told["most"] or 0.0]
    least = min(0.0, *(p["loss"][0] for p in told["front"]), *(end["measured"]["loss"][1] for end in ends))
    most = max(p["loss"][0] for p in told["front"])
    top = max(max(near), min(most, 4 * max(near))) if max(near) > 0 else most
    return {"range": [least - 0.05 * (top - least), top * 1.05]}


SECTION = Section("front", "What the wish costs", blocks, CAPTION, folded=False)
