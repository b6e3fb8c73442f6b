"""Where figures come from: files of records, read once, in the groups of the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from allocmoe import records
from allocmoe.errors import AllocMoEError, shown
from allocmoe.records import Record
from allocmoe.report.compare import Comparison, comparisons
from allocmoe.report.groups import Group, groups
from allocmoe.report.style import FOCUS, ORIGINAL

FOLDERS = ("records", "baselines")
T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """The records below a folder of reports; every file is read when a figure first asks for it.

    Files are named without folder and suffix; several are joined by commas, and read as one. Models of random weights
    may be named by their shape alone. A budget is a number of activations, or a fraction of the model's own: 1/2. The
    unchanged model has one, whatever is asked.

    Every method raises AllocMoEError for what the records do not hold.
    """

    folder: Path
    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def records(self, name: str) -> list[Record]:
        """All records of a file, or of several together."""
        files = [self._file(one) for one in name.split(",")]
        return self._once(("records", name), lambda: [r for path in files for r in records.load(path)])

    def models(self, name: str, about: str = "quality") -> list[str]:
        """The models of a file, in their order."""
        return list(dict.fromkeys(group.model for group in self.groups(name, about)))

    def groups(self, name: str, about: str = "quality") -> Sequence[Group]:
        """The comparable groups of a file."""
        return self._once((name, about), lambda: groups(self.records(name), about))

    def group(self, name: str, model: str, about: str = "quality") -> Group:
        """The one comparable group of a model."""
        among = self.groups(name, about)
        found = [g for g in among if model in (g.model, g.model.split(" (")[0])]
        if not found:
            known = ", ".join(dict.fromkeys(g.model for g in among)) or "none"
            raise AllocMoEError(f"{name} has no {about} of {shown(model)}: expected one of {known}")
        if len(found) > 1:
            labels = " and ".join(g.label for g in found)
            raise AllocMoEError(f"{name} has several measurements of {model} that cannot be compared: {labels}")
        return found[0]

    def record(self, name: str, model: str, method: str, budget: str, about: str = "quality") -> Record:
        """The latest record of a method at a budget."""
        return picked(self.group(name, model, about), method, budget)

    def original(self, name: str, model: str) -> Record:
        """The quality of the model as it is."""
        return self.record(name, model, ORIGINAL, "")

    def budgets(self, name: str, model: str) -> list[int]:
        """The budgets at which quality was measured, downwards: those of Alloc-MoE."""
        found = {r.budget or 0 for r in self.group(name, model).records if r.method == FOCUS}
        return sorted(found, reverse=True)

    def settings(self, name: str) -> list[tuple[str, int]]:
        """(model, budget) of every setting of a file."""
        return [(model, budget) for model in self.models(name) for budget in self.budgets(name, model)]

    def methods(self, name: str, model: str, about: str = "quality") -> list[str]:
        """The methods of a model's group as the table of methods lists them."""
        return list(dict.fromkeys(r.method or "" for r in self.group(name, model, about).records))

    def comparisons(self, name: str, method: str) -> list[Comparison]:
        """A method against every other in every setting; Holm over each model's own."""
        return [c for model in self.models(name) for c in self.compared(name, model, method)]

    def compared(self, name: str, model: str, method: str) -> list[Comparison]:
        """The same of one model."""
        return self._once((name, model, method), lambda: comparisons(self.group(name, model), method))

    def _file(self, name: str) -> Path:
        if re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            for folder in FOLDERS:
                path = self.folder / folder / f"{name}.jsonl"
                if path.exists():
                    return path
        known = sorted(path.stem for folder in FOLDERS for path in (self.folder / folder).glob("*.jsonl"))
        raise AllocMoEError(f"there are no records {shown(name)}: expected one of {', '.join(known) or 'none'}")

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


def picked(group: Group, method: str, budget: str) -> Record:
    """The record of a method at a budget in a group. AllocMoEError where there is none."""
    found = [r for r in group.records if r.method == method and (method == ORIGINAL or at(r, budget))]
    if len(found) != 1:
        raise AllocMoEError(f"there is no {group.about} of {group.model} under {shown(method)} at {shown(budget)}")
    return found[0]


def at(record: Record, budget: str) -> bool:
    """Whether a record is at a budget: a number of activations, or a fraction of the model's own."""
    try:
        asked = Fraction(budget)
    except (ValueError, ZeroDivisionError):
        raise AllocMoEError(f"a budget is a number or a fraction such as 1/2, not {shown(budget)}") from None
    if "/" not in budget:
        return record.budget == asked
    return record.budget == asked * int(record.details.get("original_budget") or 0)
