"""Rules across layers, each with top-k inside of them (the paper's section 4.7)."""

from __future__ import annotations

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.records import Record

NAME = "layer_rules"
METHODS = ("uniform", "ascending", "descending", "lexi", "alloc-l")


def _run(setting: Setting) -> list[Record]:
    """Quality of the methods at every budget: records as `eval` makes them, which any of its files may hold."""
    return setting.quality(setting.plans(METHODS, setting.budgets))


ANALYSIS = Analysis(NAME, "Alloc-L against other rules across layers", "Figures 4 and 10", _run)
