"""What a report reads: the comparable groups of some records with their rows and verdicts, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report.choices import Choice, choices
from allocmoe.report.compare import Comparison, comparisons
from allocmoe.report.groups import Group, groups
from allocmoe.report.rows import QualityRow, SpeedRow, quality_rows, speed_rows
from allocmoe.report.style import FOCUS
from allocmoe.report.words import plain


@dataclass(frozen=True)
class Quality:
    """A quality group with everything computed from it; a row per record of the group, in its order."""

    group: Group
    rows: list[QualityRow]
    verdicts: list[Comparison]

    @property
    def windows(self) -> int:
        return len(self.group.records[0].samples.get("nll", []))

    @property
    def items(self) -> int:
        return sum(len(t["ids"]) for t in self.group.records[0].samples.get("tasks", {}).values())


@dataclass(frozen=True)
class Speed:
    """A speed group with its rows, one per record of the group, in its order."""

    group: Group
    rows: list[SpeedRow]

    @property
    def rounds(self) -> int:
        return max(len(r.samples.get("decode_s", [])) for r in self.group.records)


@dataclass(frozen=True)
class Results:
    """Everything that sections draw from."""

    records: Sequence[Record]
    quality: list[Quality]
    speed: list[Speed]
    profiles: list[Group]

    @cached_property
    def choices(self) -> list[Choice]:
        """The plans to choose between, of each model."""
        return choices(self.quality, self.speed, self.records)

    @property
    def groups(self) -> list[Group]:
        """The groups of quality, then those of speed."""
        return [q.group for q in self.quality] + [s.group for s in self.speed]


def results(records: Sequence[Record]) -> Results:
    """Records of any kinds as groups and rows. Raises AllocMoEError if none is about quality or speed."""
    quality = [Quality(g, quality_rows(g), comparisons(g, FOCUS)) for g in groups(records, "quality")]
    speed = [Speed(g, speed_rows(g)) for g in groups(records, "speed")]
    if not quality and not speed:
        raise AllocMoEError(
            "there is no quality or speed record to report: measure with `allocmoe eval` or `allocmoe bench` first"
        )
    return Results(records, quality, speed, groups(records, "profile"))


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The results as one JSON-able object; what has no samples to compute it from is null.

    Returns:
        {"quality": [...], "speed": [...]}, an entry per group with `label`, `model`, `fingerprint`, `setup`
        and `results`, a row per method and budget; quality entries also have `verdicts`, Alloc-MoE
        against every other method. Ratios are perplexity over the original's, speedups are the
        original's time over the method's, accuracies and flips lie in 0..1. `kl` and `flips` are there
        only where they were measured.

    Raises AllocMoEError if no record is about quality or speed.
    """
    found = results(records)
    entries = {
        "quality": [
            _about(q.group) | {"results": list(map(_row, q.rows)), "verdicts": list(map(_verdict, q.verdicts))}
            for q in found.quality
        ],
        "speed": [_about(s.group) | {"results": list(map(asdict, s.rows))} for s in found.speed],
    }
    return {name: plain(each) for name, each in entries.items()}


def _row(row: QualityRow) -> dict[str, Any]:
    absent = [name for name in ("kl", "flips") if math.isnan(getattr(row, name).estimate)]
    return {name: value for name, value in asdict(row).items() if name not in absent}


def _about(group: Group) -> dict[str, Any]:
    return {"label": group.label, "model": group.model, "fingerprint": group.fingerprint, "setup": group.setup}


def _verdict(c: Comparison) -> dict[str, Any]:
    return asdict(c) | {"verdict": {"perplexity": c.perplexity, "accuracy": c.accuracy}}
