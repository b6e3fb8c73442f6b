"""Rules across layers, each with top-k inside of them: the paper's Figures 4 and 10."""

from __future__ import annotations

from collections.abc import Iterator

from allocmoe.analyses.layer_rules import METHODS
from allocmoe.report import by_budget
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import compared

NOTE = "Of ascending, descending and LExI the paper has figures alone, without numbers (Figures 4 and 10)."


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    yield from by_budget.blocks(
        compared(found, METHODS), "Layer rules", "rule across layers", "Tables 4, 7 and 8", "ablation", NOTE
    )


SECTION = Section("layer_rules", "Rules across layers", blocks, by_budget.CAPTION)
