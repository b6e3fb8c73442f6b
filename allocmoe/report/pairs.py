"""Speed and quality of one plan on one routing shape: the only ones that may share a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocmoe.records import Record
from allocmoe.report.rows import QualityRow, SpeedRow

if TYPE_CHECKING:
    from allocmoe.report.results import Quality, Speed


def pairs(q: Quality, s: Speed) -> list[tuple[QualityRow, SpeedRow]]:
    """Rows of quality and speed of one plan on one routing shape, in the order of the quality rows.

    Either both were measured on the same weights under the same plan, or the speed record says that its
    plan is the quality record's, transplanted layer by layer onto a shape of as many layers, experts and
    experts per token.
    """
    timed = {_plan(r): (r, row) for r, row in zip(s.group.records, s.rows, strict=True)}
    found = []
    for record, row in zip(q.group.records, q.rows, strict=True):
        other, its_row = timed.get((record.fingerprint, record.plan), (None, None))
        if record.plan and other and its_row and _routing(record) == _routing(other):
            found.append((row, its_row))
    return found


def _plan(record: Record) -> tuple[str, str | None]:
    """Weights and digest of the plan that was timed; of the plan that was transplanted, where one was."""
    known = record.details.get("transplanted")
    if isinstance(known, dict):
        return str(known.get("fingerprint")), known.get("plan")
    return record.fingerprint, record.plan


def _routing(record: Record) -> tuple[object, ...]:
    """What a plan and its transplant must share whatever the record claims."""
    return record.method, record.budget, record.details.get("layers"), record.details.get("original_budget")
