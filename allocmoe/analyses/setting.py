"""What a setting is made of: profiles that are kept, and records of other files that may stand for a measurement."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allocmoe.errors import AllocMoEError
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record, views

if TYPE_CHECKING:
    from allocmoe.data.text import Windows
    from allocmoe.engines.hf import HFEngine


def profiles(
    engine: HFEngine, first: Windows, batch: int, to: Path, given: Path | None, seed: int, progress: bool
) -> Callable[[Windows, Sequence[str]], Sensitivity]:
    """What gives the profile of a calibration text: made when first asked for, and kept in a folder beside the records.

    Args:
        engine, batch: of the model, and windows that go through at a time.
        first: the text that a given profile must be of.
        to: the records file.
        given: a profile that is there already.
        seed, progress: of what is measured.

    Raises AllocMoEError for a given profile of another model, text, batch or seed.
    """
    from allocmoe.profile.run import kept

    folder = to.with_name(f"{to.stem}.profiles")
    known = Sensitivity.load(given) if given else None
    wanted = {**first.describe(), "batch": batch, "seed": seed}
    if known and (known.fingerprint != engine.fingerprint or not known.calibration.items() >= wanted.items()):
        raise AllocMoEError(f"{given} is a profile of another model, text, batch or seed: leave --profile out")

    def profile(text: Windows, quantities: Sequence[str]) -> Sensitivity:
        mine = text.describe()["digest"] == wanted["digest"]
        if known and mine and set(quantities) <= set(known.quantities):
            return known
        name = re.sub(r"\W+", "-", f"{engine.fingerprint}-{text.name}-{len(text.ids)}")
        return kept(
            engine, text, batch, folder / f"{name}.json", quantities=quantities, seed=seed, progress=progress
        )  # fmt: skip

    return profile


def earlier(found: Iterable[Record]) -> dict[str, Record]:
    """Records that may stand for a measurement here, by key: those of this machine and its versions."""
    probe = Record("analysis", "", "", None, None, None, {}, {})
    here = views.machine(probe)
    return {record.key: record for record in found if views.machine(record) == here}
