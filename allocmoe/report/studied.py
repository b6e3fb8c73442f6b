"""Analyses as sections read them: their records, with those of the same conditions beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allocmoe import documents
from allocmoe.records import Record, conditions, views
from allocmoe.report.groups import owner
from allocmoe.report.results import Results
from allocmoe.report.style import ORIGINAL


@dataclass(frozen=True)
class Study:
    """A table of plans with their quality.

    Attributes:
        label: model and text.
        shape: L and K, which the paper's models are known by.
        rows: label of a row -> budget -> the record of the plan that stands there.
        original: the unchanged model's.
        details: of the record that says what the table holds.
    """

    label: str
    shape: tuple[int, int]
    rows: Mapping[str, Mapping[int, Record]]
    original: Record
    details: Mapping[str, Any]

    @property
    def budgets(self) -> list[int]:
        """Downwards, as tables have them."""
        return sorted({budget for row in self.rows.values() for budget in row}, reverse=True)


def named(record: Record) -> str:
    """The analysis that a record is part of, empty for none."""
    told = record.setup.get("analysis") if record.about == "analysis" else None
    return str(told.get("name", "")) if isinstance(told, dict) else ""


def base(record: Record, *ignored: str) -> str:
    """Equal for records that may stand in one table: model, setup but for the analysis and what else is ignored,
    machine, origin of plans."""
    rest = {name: value for name, value in conditions(record).items() if name not in ("analysis", *ignored)}
    return documents.digest([rest, owner(record)])


def label(record: Record) -> str:
    return " · ".join(str(part) for part in (record.model, record.setup.get("text")) if part)


def parts(found: Results, name: str, *ignored: str) -> Iterator[list[Record]]:
    """The records of an analysis that may stand together, the latest of each key; see `base`."""
    members: dict[str, list[Record]] = {}
    for record in found.records:
        if named(record) == name:
            members.setdefault(base(record, *ignored), []).append(record)
    for among in members.values():
        yield list(views.newest(among, lambda record: record.key).values())


def shape(record: Record) -> tuple[int, int]:
    """L and K of the model that a record's plan is for."""
    layers = len(record.details["layers"])
    return layers, int(record.details["original_budget"]) // layers


def tabled(found: Results, name: str) -> Iterator[Study]:
    """The tables that an analysis wrote, as far as their plans were measured under the same conditions."""
    for among in parts(found, name):
        for record in (r for r in among if "rows" in r.details):
            here = base(record)
            alike = [r for r in found.records if r.plan and r.about in ("quality", "analysis") and base(r) == here]
            plans = {str(r.plan): r for r in alike if "perplexity" in r.metrics}
            original = next((r for r in plans.values() if r.method == ORIGINAL), None)
            rows = {
                row: {int(b): plans[plan] for b, plan in places.items() if plan in plans}
                for row, places in record.details["rows"].items()
            }
            if original and any(rows.values()):
                size = record.details["shape"]
                yield Study(label(record), (size[0], size[1]), rows, original, record.details)


def compared(found: Results, methods: Sequence[str]) -> Iterator[Study]:
    """Quality groups in which two or more of these methods were measured, whole windows at a time."""
    for q in found.quality:
        whole = next(iter(q.group.originals.values()), None)
        rows = {m: {r.budget or 0: r for r in q.group.records if r.method == m} for m in methods}
        known = {m: row for m, row in rows.items() if row}
        if whole and len(known) > 1 and "layers" in whole.details and "passes" not in q.group.setup:
            yield Study(q.group.label, shape(whole), known, whole, {})
