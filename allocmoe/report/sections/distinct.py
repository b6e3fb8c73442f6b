"""Quality against the distinct experts that a small pass touches, which is what decoding pays for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from allocmoe.report import figures
from allocmoe.report.figures import Panel
from allocmoe.report.results import Results
from allocmoe.report.rows import QualityRow, methods
from allocmoe.report.section import Block, Section
from allocmoe.report.style import ORIGINAL

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
Whole windows routed as if {{ f.batch }} sequences were decoded side by side: each layer decides among {{ f.batch }}
tokens. Distinct experts are means per pass and layer, over {{ f.windows }} windows; bars are 95 % intervals of the
perplexity over the original's, which touches {{ f.original }}. Further left is less to read; lower is better.
"""

Point = tuple[float, QualityRow]
"""Mean distinct experts per pass and layer, and the row that they belong to."""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per quality group that was evaluated as if decoding."""
    for q in found.quality:
        if q.group.setup.get("passes") != "decode":
            continue
        counted = [r.spent.get("distinct_per_layer") for r in q.group.records]
        rows = [(fmean(d), row) for d, row in zip(counted, q.rows, strict=True) if d]
        rows = [(d, row) for d, row in rows if math.isfinite(row.ratio.estimate)]
        if len(rows) > 1:
            whole = [d for d, row in rows if row.method == ORIGINAL]
            facts = {
                "batch": q.group.setup["text_batch"],
                "windows": q.windows,
                "original": f"{whole[0]:.1f}" if whole else "more",
            }
            yield Block(q.group.label, distinct(rows), facts)


def distinct(points: Sequence[Point]) -> Figure:
    """Perplexity over the original's against distinct experts per pass and layer, a line per method."""
    series = {
        m: sorted((d, row.ratio) for d, row in points if row.method == m) for m in methods([r for _, r in points])
    }  # fmt: skip
    axis = {"title": {"text": "perplexity over the original's"}, "tickformat": ".3~g"}
    x = {"title": {"text": "distinct experts per layer and step"}}
    return figures.panels([Panel("", series, [1.0], axis)], x, 520)


SECTION = Section("distinct", "Quality against distinct experts", blocks, CAPTION)
