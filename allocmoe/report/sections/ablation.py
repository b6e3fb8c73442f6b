"""Alloc-L and Alloc-T, apart and together, beside the paper's Tables 4, 7 and 8."""

from __future__ import annotations

from collections.abc import Iterator

from allocmoe.analyses.ablation import METHODS
from allocmoe.report import by_budget
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import compared


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    yield from by_budget.blocks(
        compared(found, METHODS), "Apart and together", "method", "Tables 4, 7 and 8", "ablation"
    )


SECTION = Section("ablation", "What Alloc-L and Alloc-T each add", blocks, by_budget.CAPTION)
