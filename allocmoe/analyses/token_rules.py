"""Rules across tokens, each with the same budget in every layer (the paper's section 4.7)."""

from __future__ import annotations

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.records import Record

NAME = "token_rules"
METHODS = ("uniform", "dynamic-moe", "naee", "alloc-t")


def _run(setting: Setting) -> list[Record]:
    """Quality of the methods at every budget: records as `eval` makes them, which any of its files may hold."""
    return setting.quality(setting.plans(METHODS, setting.budgets))


ANALYSIS = Analysis(NAME, "Alloc-T against other rules across tokens", "Figures 6 and 11", _run)
