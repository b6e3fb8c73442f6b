"""Alloc-L and Alloc-T, apart and together (the paper's section 4.7)."""

from __future__ import annotations

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.records import Record

NAME = "ablation"
METHODS = ("uniform", "alloc-l", "alloc-t", "alloc-moe")


def _run(setting: Setting) -> list[Record]:
    """Quality of the methods at every budget: records as `eval` makes them, which any of its files may hold."""
    return setting.quality(setting.plans(METHODS, setting.budgets))


ANALYSIS = Analysis(NAME, "Alloc-L and Alloc-T, apart and together", "Tables 4, 7 and 8", _run)
