"""Calibration text of Alloc-L, and how much of it (the paper's section 4.6).

Algorithm 1 reads another text, or less of the usual one; the plans that follow are measured on the same held-out text.
Texts that lead to the same plan share its measurement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.methods import sweep
from allocmoe.records import Record

if TYPE_CHECKING:
    from allocmoe.data.text import Windows
    from allocmoe.plan import Plan

NAME = "calibration"
METHOD = "alloc-l"
LESS = 4
"""The amounts of the usual text: all of it, and again and again a part of so many."""


def texts(setting: Setting) -> dict[str, Windows]:
    """Label -> calibration windows: every text, then less and less of the first one."""
    from allocmoe.data.text import Windows

    found = {_label(text): text for text in setting.calibrations}
    first = setting.calibrations[0]
    count = len(first.ids) // LESS
    while count:
        less = Windows(first.ids[:count], first.name)
        found[_label(less)] = less
        count //= LESS
    return found


def _label(text: Windows) -> str:
    return f"{text.name}, {len(text.ids)} windows" if len(text.ids) > 1 else f"{text.name}, 1 window"


def _run(setting: Setting) -> list[Record]:
    rows: dict[str, list[Plan]] = {}
    for label, text in texts(setting).items():
        known = setting.profiles(text, ["perplexity"])
        rows[label] = sweep(setting.engine, known, [METHOD], setting.budgets, seed=setting.seed)[1:]
    layers = {label: {str(plan.budget): list(plan.layers) for plan in plans} for label, plans in rows.items()}
    return setting.table(NAME, rows, {"layers": layers})


ANALYSIS = Analysis(NAME, "what Alloc-L is profiled on, and how much of it", "Table 3", _run)
