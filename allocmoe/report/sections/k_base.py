"""k_base of Alloc-T, beside the paper's Tables 2, 5 and 6."""

from __future__ import annotations

from collections.abc import Iterator

from allocmoe.report import by_budget
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import tabled

NOTE = (
    "From the mean number of experts per layer on, k_base leaves nothing to share: those rows are uniform's top-k, "
    "or equal to the one above."
)


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    yield from by_budget.blocks(
        tabled(found, "k_base"), "Experts for every token first", "k_base", "Tables 2, 5 and 6", "k_base", NOTE
    )


SECTION = Section("k_base", "k_base of Alloc-T", blocks, by_budget.CAPTION)
