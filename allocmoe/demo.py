"""The whole pipeline on an embedded model: profile, allocate, evaluate, time, report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import mini, records, report
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.quality import evaluate
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.evaluate.text import windows
from allocmoe.measure import protocol as speed
from allocmoe.measure import shapes
from allocmoe.methods import METHODS
from allocmoe.profile.run import as_record, kept


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
    calibration = windows(engine.tokenizer, "mini-train", size.calibration, WINDOW)
    sensitivity = kept(engine, calibration, BATCH, out / "profile.json", seed=seed, progress=progress)
    budgets = engine.spec.budgets()
    plans = speed.all_plans(engine, sensitivity, list(METHODS), budgets, seed=seed)
    for plan in plans:
        plan.save(out / "plans" / f"{plan.method}-{plan.budget}.json")
    if not any(r.about == "profile" and r.fingerprint == engine.fingerprint for r in records.resume(path)):
        records.append(path, as_record(engine, sensitivity))
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
