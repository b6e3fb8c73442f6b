"""The gate as a comment on a pull request: the verdict, what does not pass, and each figure over the last commits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from allocmoe import metrics
from allocmoe.gate import show
from allocmoe.gate.verdict import PASS, REGRESSED, UNMEASURED, Gate, Row

if TYPE_CHECKING:
    from allocmoe.history import Series

COMMITS = 12
"""So many of the last ones are drawn."""
BLOCKS = "▁▂▃▄▅▆▇█"
ORDER = (REGRESSED, UNMEASURED, "", PASS)
HEADER = ("row", "old", "new", "change", "verdict", "noise floor", "last commits")


def comment(gate: Gate, past: Sequence[Series] = ()) -> str:
    """Markdown: the rows that do not pass first, those that do folded.

    Args:
        gate: of the pull request.
        past: series over commits, see `history.series`; rows without one have no sparkline.
    """
    ordered = sorted(gate.rows, key=lambda row: ORDER.index(row.verdict) if row.verdict in ORDER else 2)
    rest = [row for row in ordered if row.verdict != PASS]
    passed = [row for row in ordered if row.verdict == PASS]
    parts = [f"### allocmoe: {show.outcome(gate)}", ""]
    if rest:
        parts += [*_table(rest, past), "", *(f"- {row.name}: {row.reason}" for row in rest if row.reason), ""]
    if passed:
        parts += ["<details><summary>What passes</summary>", "", *_table(passed, past), "", "</details>", ""]
    parts += [f"- {note}" for note in gate.notes]
    legend = "Change: above zero is worse, ~ not shown. Noise floor: what is reported 9 times in 10."
    drawn = f" Last commits: up to {COMMITS}, oldest first, low to high, the new one last." if past else ""
    return "\n".join([*parts, f"<sub>{legend}{drawn}</sub>", ""])


def sparkline(values: Sequence[float]) -> str:
    """A block per value, from the lowest to the highest of them; all in the middle if they are equal."""
    low, high = min(values), max(values)
    if high == low:
        return BLOCKS[len(BLOCKS) // 2 - 1] * len(values)
    return "".join(BLOCKS[round((v - low) / (high - low) * (len(BLOCKS) - 1))] for v in values)


def _table(rows: Sequence[Row], past: Sequence[Series]) -> list[str]:
    lines = [HEADER, tuple("---" for _ in HEADER), *(_cells(row, past) for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _cells(row: Row, past: Sequence[Series]) -> tuple[str, ...]:
    name, old, new, change, _, _, detects, verdict = show.cells(row)
    floor = detects or (
        "none: it repeats" if math.isfinite(row.change) and not metrics.get(row.key.metric).noise else ""
    )
    return name, old, new, change, f"**{verdict}**" if verdict == REGRESSED else verdict, floor, _history(row, past)


def _history(row: Row, past: Sequence[Series]) -> str:
    """The row's series as a sparkline: the one measured at the most recent commit, where there are several."""
    name, _, engine = row.key.model.partition("@")
    known = [
        s for s in past
        if (s.method, s.budget, s.metric) == (row.key.method, row.key.budget, row.key.metric)
        and PurePosixPath(s.model).name == PurePosixPath(name).name and (s.engine == "vllm") == (engine == "vllm")
        and len(s.points) > 1
    ]  # fmt: skip
    if not known:
        return ""
    latest = max(known, key=lambda s: (s.points[-1].commit.order, len(s.points)))
    return f"`{sparkline(latest.values[-COMMITS:])}`"
