"""Everything the allocation wants to know of a model, measured in one go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.text import Windows
from allocmoe.profile import algorithm1, lexi, thresholds
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record

CALIBRATION_TOKENS = 16384  # for the thresholds, which want one batch


def profile(
    engine: HFEngine,
    text: Windows,
    batch: int,
    *,
    partial: Path | None = None,
    naive: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Sensitivity:
    """Algorithm 1 on the calibration text, LExI's distances, and thresholds for every whole k.

    Args:
        engine: of the model.
        text, batch: calibration windows and how many go through at a time.
        partial: where an interrupted profile is kept; see `algorithm1.fast`.
        naive: compute Algorithm 1 as printed.
        seed: of LExI's random input.
    """
    if naive:
        matrix, evaluations = algorithm1.naive(engine, text, batch, progress)
    else:
        matrix, evaluations = algorithm1.fast(engine, text, batch, partial, progress)
    few = Windows(text.ids[: max(1, CALIBRATION_TOKENS // text.ids.shape[1])], text.name)
    limits = thresholds.tables(engine, few)

    def rows(table: np.ndarray) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(v) for v in row) for row in table)

    return Sensitivity(
        spec=engine.spec,
        fingerprint=engine.fingerprint,
        perplexity=rows(matrix),
        distances=rows(lexi.distances(engine, seed=seed)),
        top_p=rows(limits["top_p"]),
        naee=rows(limits["naee"]),
        evaluations=evaluations,
        calibration={**text.describe(), "batch": batch, "threshold_windows": len(few.ids), "seed": seed},
    )


def kept(
    engine: HFEngine, text: Windows, batch: int, path: Path, *, seed: int = 0, progress: bool = True
) -> Sensitivity:
    """The profile that an earlier run left at `path`, or a new one, written there; an interrupted one goes on.

    Raises AllocMoEError for another model's profile. One of other calibration text or seed is made anew.
    """
    if path.exists():
        found = Sensitivity.load(path)
        if found.fingerprint != engine.fingerprint:
            raise AllocMoEError(f"{path} is the profile of another model: give another folder")
        if found.calibration.items() >= {**text.describe(), "batch": batch, "seed": seed}.items():
            return found
    found = profile(engine, text, batch, partial=path.with_suffix(".partial"), seed=seed, progress=progress)
    found.save(path)
    return found


def as_record(engine: HFEngine, sensitivity: Sensitivity, metrics: dict[str, float] | None = None) -> Record:
    """A profile as a record, for the report's picture of S."""
    calibration = sensitivity.calibration
    return Record(
        about="profile",
        model=engine.name,
        fingerprint=engine.fingerprint,
        method=None,
        budget=None,
        plan=None,
        setup=calibration,
        metrics={
            "evaluations": sensitivity.evaluations,
            "tokens": calibration["windows"] * calibration["window"],
            **(metrics or {}),
        },
        details={
            "perplexity": [list(row) for row in sensitivity.perplexity],
            "distances": [list(row) for row in sensitivity.distances],
            "digest": sensitivity.digest,
        },
    )
