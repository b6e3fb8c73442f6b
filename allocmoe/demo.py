"""The whole pipeline on an embedded model: profile, allocate, evaluate, time, report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import mini, records, report
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.quality import evaluate
from allocmoe.evaluate.tasks import TaskSuite
from allocmoe.evaluate.text import windows
from allocmoe.measure import protocol as speed
from allocmoe.measure import shapes
from allocmoe.methods import METHODS
from allocmoe.profile.run import profile
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record


@dataclass(frozen=True)
class Size:
    """How much is measured. `windows` of 256 tokens for calibration and for perplexity, `items` per task."""

    calibration: int
    windows: int
    items: int
    protocol: speed.Protocol


QUICK = Size(calibration=32, windows=32, items=80, protocol=speed.Protocol(decode=32, warmups=1, runs=5))
FULL = Size(calibration=64, windows=128, items=500, protocol=speed.Protocol())
WINDOW, BATCH = 256, 8


def demo(model: str, out: Path, size: Size, *, shape: str, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Run everything into the folder `out`; what an earlier, interrupted run measured is kept.

    Returns the report's summary, with the paths of the page and the records.
    """
    engine = HFEngine.load(mini.resolve(model))
    path = out / "records.jsonl"
    sensitivity = _profiled(engine, out, size, seed, progress)
    budgets = engine.spec.budgets()
    plans = speed.all_plans(engine, sensitivity, list(METHODS), budgets, seed=seed)
    for plan in plans:
        plan.save(out / "plans" / f"{plan.method}-{plan.budget}.json")
    if not any(r.about == "profile" and r.fingerprint == engine.fingerprint for r in records.resume(path)):
        records.append(path, profile_record(engine, sensitivity))
    held_out = windows(engine.tokenizer, "mini-test", size.windows, WINDOW)
    evaluate(
        engine, plans, held_out, path,
        text_batch=BATCH, suite=TaskSuite(engine), items=size.items, seed=seed, progress=progress,
    )  # fmt: skip
    timed = shapes.build(shape, seed=seed)
    timed_plans = speed.all_plans(
        timed, speed.random_profile(timed, seed), list(METHODS), timed.spec.budgets(), seed=seed
    )
    missing = speed.left_out(list(METHODS), timed.spec.budgets(), timed_plans)
    if missing and progress:
        tqdm.write(f"{shape} has no such schedule, left out: {', '.join(missing)}", file=sys.stderr)
    if not speed.measured(path, timed, timed_plans, size.protocol, seed):
        for record in speed.session(timed, timed_plans, size.protocol, seed, progress):
            records.append(path, record)
    page = out / "report.html"
    found = records.load(path)
    report.write(found, page, f"Alloc-MoE on {model}")
    return {**report.summary(found), "page": str(page), "records": str(path)}


def profile_record(engine: HFEngine, sensitivity: Sensitivity, metrics: dict[str, float] | None = None) -> Record:
    """A profile as a record."""
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


def _profiled(engine: HFEngine, out: Path, size: Size, seed: int, progress: bool) -> Sensitivity:
    """The profile of an earlier run of this model in `out`, or a new one."""
    path = out / "profile.json"
    text = windows(engine.tokenizer, "mini-train", size.calibration, WINDOW)
    if path.exists():
        found = Sensitivity.load(path)
        if found.fingerprint != engine.fingerprint:
            raise AllocMoEError(f"{path} is the profile of another model: give another folder with --out")
        if (found.calibration["windows"], found.calibration["seed"]) == (len(text.ids), seed):
            return found
    found = profile(engine, text, BATCH, partial=out / "profile.partial", seed=seed, progress=progress)
    found.save(path)
    return found
