"""Measuring a profile: the quantities that are asked for, and no more than are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.profile.quantities import QUANTITIES, Setting, quantity
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record


def profile(
    engine: HFEngine,
    text: Windows,
    batch: int,
    *,
    quantities: Sequence[str] | None = None,
    known: Sensitivity | None = None,
    path: Path | None = None,
    naive: bool = False,
    seed: int = 0,
    progress: bool = True,
    decode_batch: int = 8,
) -> Sensitivity:
    """A profile with the quantities asked for.

    Args:
        engine: of the model.
        text, batch: calibration windows and how many go through at a time.
        quantities: names, None for all that there are.
        known: an earlier profile on the same text, whose quantities are kept.
        path: the profile's file: it is written after every quantity, and an interrupted one goes on from
            `<path>.partial`.
        naive: compute Algorithm 1 as printed.
        seed: of everything random.
        decode_batch: sequences that decode together; what was measured with others is measured anew.

    Raises AllocMoEError for an unknown quantity.
    """
    found = known or Sensitivity(
        engine.spec, engine.fingerprint, {}, {}, {**text.describe(), "batch": batch, "seed": seed}
    )
    partial = path.with_name(path.name + ".partial") if path else None
    setting = Setting(engine, text, batch, seed, partial, naive, progress, decode_batch=decode_batch)
    for name in ordered(list(QUANTITIES) if quantities is None else quantities):
        if name in found.quantities and quantity(name).current(setting, found.quantities[name]):
            continue
        value, facts = quantity(name).measure(replace(setting, known=found.quantities))
        found = replace(
            found, quantities={**found.quantities, name: value}, measured={**found.measured, name: facts}
        )  # fmt: skip
        if path:
            found.save(path)
    return found


def ordered(names: Sequence[str]) -> list[str]:
    """The names, each after those that it needs."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys([*ordered(quantity(name).needs), name])
    return list(found)


def kept(
    engine: HFEngine,
    text: Windows,
    batch: int,
    path: Path,
    *,
    quantities: Sequence[str] | None = None,
    naive: bool = False,
    seed: int = 0,
    progress: bool = True,
    decode_batch: int = 8,
) -> Sensitivity:
    """The profile that an earlier run left at `path`, with what it lacks measured; an interrupted one goes on.

    One of other calibration text, batch or seed is made anew beside the old one (`<path>.new`), and takes its place
    when it is whole.

    Raises AllocMoEError for another model's profile.
    """
    wanted = {**text.describe(), "batch": batch, "seed": seed}
    found, work = _earlier(path, engine, wanted), path
    if found is None and path.exists():
        work = path.with_name(path.name + ".new")
        found = _earlier(work, engine, wanted)
    made = profile(
        engine, text, batch, quantities=quantities, known=found, path=work, naive=naive, seed=seed, progress=progress,
        decode_batch=decode_batch,
    )  # fmt: skip
    if work != path:
        made.save(path)
        work.unlink(missing_ok=True)
    return made


def _earlier(path: Path, engine: HFEngine, calibration: dict[str, Any]) -> Sensitivity | None:
    """The profile in a file; None if there is none, or one of other calibration."""
    if not path.exists():
        return None
    found = Sensitivity.load(path)
    if found.fingerprint != engine.fingerprint:
        raise AllocMoEError(f"{path} is the profile of another model: give another folder or file")
    return found if found.calibration.items() >= calibration.items() else None


def as_record(engine: HFEngine, sensitivity: Sensitivity, metrics: dict[str, float] | None = None) -> Record:
    """A profile as a record, for the report's picture of S."""
    calibration, measured = sensitivity.calibration, sensitivity.measured
    evaluations = measured.get("perplexity", {}).get("evaluations")
    return Record(
        about="profile",
        model=engine.name,
        fingerprint=engine.fingerprint,
        method=None,
        budget=None,
        plan=None,
        setup=calibration,
        metrics={
            **({"evaluations": evaluations} if evaluations else {}),
            "tokens": calibration["windows"] * calibration["window"],
            **(metrics or {}),
        },
        details={**_pictured(sensitivity), "digest": sensitivity.digest},
    )


def _pictured(sensitivity: Sensitivity) -> dict[str, Any]:
    """What the report draws."""
    return {n: sensitivity.quantities[n] for n in ("perplexity", "distances") if n in sensitivity.quantities}
