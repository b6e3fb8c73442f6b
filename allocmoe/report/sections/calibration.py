"""Calibration text of Alloc-L and its amount, beside the paper's Table 3."""

from __future__ import annotations

from collections.abc import Iterator

from allocmoe.report import by_budget
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section
from allocmoe.report.studied import Study, tabled


def moved(study: Study) -> float:
    """The largest share of a budget that another calibration puts into other layers than the first one does."""
    layers = study.details.get("layers", {})
    first: dict[str, list[float]] = next(iter(layers.values()), {})
    shares = [
        sum(max(0, b - a) for a, b in zip(first[budget], other[budget], strict=True)) / sum(first[budget])
        for other in layers.values()
        for budget in set(first) & set(other)
    ]
    return max(shares, default=0.0)


def blocks(found: Results) -> Iterator[Block]:
    """A figure and a table per model."""
    for study in tabled(found, "calibration"):
        note = f"Of a budget at most {moved(study):.0%} stands in other layers than with the first text."
        yield from by_budget.blocks([study], "Calibration", "profiled on", "Table 3", "calibration", note)


SECTION = Section("calibration", "Calibration text of Alloc-L", blocks, by_budget.CAPTION)
