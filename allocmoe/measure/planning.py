"""The plans that a shape is timed under: its embedded model's own, or, where it has none, plans of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allocmoe import mini
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine, load_tokenizer
from allocmoe.errors import AllocMoEError
from allocmoe.measure.protocol import Protocol, random_profile
from allocmoe.measure.wide import WIDE, transplanted
from allocmoe.methods import needs, sweep
from allocmoe.plan import Plan
from allocmoe.profile.run import kept
from allocmoe.profile.sensitivity import Sensitivity

CALIBRATION = ("mini-train", 8, 256)  # text, windows and tokens of the profile that is made where none is given
BATCH = 8


def plans_for(
    shape: str,
    engine: HFEngine,
    names: Sequence[str],
    budgets: Sequence[float],
    *,
    given: Path | None = None,
    beside: Path,
    seed: int = 0,
    progress: bool = True,
) -> list[Plan]:
    """`original` and every other method at every budget, for a model that `shapes.build` made.

    A wide shape gets its embedded model's plans, transplanted; another shape plans of its own.

    Args:
        shape, engine: the shape's name and the model.
        names, budgets: see `methods.sweep`.
        given: the file of a profile, of the embedded model for a wide shape, else of the shape itself.
        beside: a records file: without `given`, an embedded model's profile is kept in a folder next to it.
        seed, progress: of the profile that is made.

    Raises AllocMoEError for a profile of another model and for impossible plans.
    """
    known: Any = Sensitivity.load(given) if given else None
    if shape not in WIDE:
        return sweep(engine, known or random_profile(engine, names, seed), names, budgets, seed=seed)
    home = HFEngine.load(mini.resolve(WIDE[shape]))
    wanted = needs(names)
    if known is None and wanted:
        path = beside.with_name(f"{beside.stem}.profiles") / f"{home.name}.json"
        text, count, length = CALIBRATION
        ids = windows(home.tokenizer, text, count, length)
        known = kept(home, ids, BATCH, path, quantities=wanted, seed=seed, progress=progress)
    return [transplanted(plan, engine, home.name) for plan in sweep(home, known, names, budgets, seed=seed)]


def prompts_of(shape: str, text: str, protocol: Protocol) -> Windows:
    """Windows of a text for a session on a wide shape, in the tokens of its embedded model, whose routing it has.

    Raises AllocMoEError for another shape, which has no tokenizer, and for a text that is too short.
    """
    if shape not in WIDE:
        raise AllocMoEError(f"{shape[:60]} has no tokenizer: a text can be read for {', '.join(WIDE)}")
    tokenizer = load_tokenizer(mini.resolve(WIDE[shape]))
    return windows(tokenizer, text, protocol.batch, protocol.prompt + protocol.decode)
