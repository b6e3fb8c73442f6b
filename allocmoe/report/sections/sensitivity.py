"""What a layer's experts are worth: the profile's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from allocmoe.allocation.alloc_l import normalised
from allocmoe.report import figures
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.words import plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CAPTION = """\
Dark cells are dear: what it costs to leave a layer only k experts. The rise is measured on text, from the last layer to
the first, with the later layers left at 1; LExI's distance needs no text.
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per profile, of the tables that it has."""
    for group in found.profiles:
        details, tables = group.records[-1].details, {}
        if details.get("perplexity"):
            rise = normalised(np.array(details["perplexity"]), "ratio")
            tables["Rise of the perplexity, S(l, k) / S(l, K) - 1"] = (rise, "+.1%")
        if details.get("distances"):
            distances = np.array(details["distances"], dtype=np.float64)
            tables["LExI's distance of outputs, D(l, k)"] = (distances, ".3~g")
        if tables:
            yield Block(group.label, sensitivity(tables), {}, group.model)


def sensitivity(tables: Mapping[str, tuple[np.ndarray, str]]) -> Figure:
    """Matrices [L, K] side by side, each with the number format of its cells: a row per layer, a column per k."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(tables), subplot_titles=list(tables), horizontal_spacing=0.12)
    for column, (table, form) in enumerate(tables.values(), start=1):
        depth, top_k = table.shape
        shown = {"colorscale": "OrRd", "showscale": False}
        z, k = plain(table.tolist()), list(range(1, top_k + 1))
        fig.add_trace(figures.heatmap(go, z, k, list(range(depth)), "%{z:" + form + "}", **shown), 1, column)
        fig.update_xaxes(title={"text": "experts k in this layer"}, dtick=1, row=1, col=column)
        fig.update_yaxes(title={"text": "MoE layer"}, autorange="reversed", dtick=1, row=1, col=column)
    return figures.finish(fig, 26 * max(len(table) for table, _ in tables.values()) + 130)


SECTION = Section("sensitivity", "What a layer's experts are worth", blocks, CAPTION)
