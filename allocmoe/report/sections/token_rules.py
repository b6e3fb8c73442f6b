"""Rules across tokens, each with the same budget in every layer: the paper's Figures 6 and 11."""

from __future__ import annotations

from collections.abc import Iterator

from allocmoe.analyses.token_rules import METHODS
from allocmoe.report import by_budget
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import compared

NOTE = "Of Dynamic-MoE and NAEE the paper has figures alone, without numbers (Figures 6 and 11)."


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    yield from by_budget.blocks(
        compared(found, METHODS), "Token rules", "rule across tokens", "Tables 4, 7 and 8", "ablation", NOTE
    )


SECTION = Section("token_rules", "Rules across tokens", blocks, by_budget.CAPTION)
