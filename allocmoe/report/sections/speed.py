"""Speedup against budget, prefill beside decode."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.rows import SpeedRow, methods
from allocmoe.report.section import Block, Section
from allocmoe.report.style import PHASES, TIMES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
Above 1\N{MULTIPLICATION SIGN} is faster than the original: its time over the method's in the same round,
{{ f.rounds }} interleaved rounds, 95% interval. Where a bar crosses 1\N{MULTIPLICATION SIGN} (dashed),
no difference is shown.
{% if f.owner %}
The plans are those of {{ f.owner }}, transplanted layer by layer onto this shape: it has random weights, and as many
MoE layers, experts and experts per token.
{% endif %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per group that has any speedup; whose plans were timed, where they are another model's."""
    for s in found.speed:
        rows = [r for r in s.rows if math.isfinite(r.decode.estimate) or math.isfinite(r.prefill.estimate)]
        if rows:
            owner = s.group.owner.get("model", "")
            facts = {"rounds": s.rounds, "owner": owner}
            yield Block(s.group.label, speed(rows), facts, owner or s.group.model, s.group.label)


def speed(rows: Sequence[SpeedRow]) -> Figure:
    """Speedup over the original against the share of its activations, prefill beside decode."""
    panels = []
    for phase, title in PHASES.items():
        series = {m: [(r.share, getattr(r, phase)) for r in rows if r.method == m] for m in methods(rows)}
        axis = {"ticksuffix": TIMES, "title": {"text": "speedup"}}
        panels.append(figures.Panel(title, series, [1.0], axis))
    shares = sorted({r.share for r in rows})
    x = {"tickvals": shares, "ticktext": [f"{s:.0%}" for s in shares], "title": {"text": "share of the activations"}}
    return figures.panels(panels, x, 440)


SECTION = Section("speed", "Speedup against budget", blocks, CAPTION)
