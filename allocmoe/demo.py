"""The whole pipeline on an embedded model: profile, allocate, evaluate, time, tune for a wish, report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import mini, records, report
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.quality import evaluate
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.measure import protocol as speed
from allocmoe.measure import shapes
from allocmoe.measure.wide import WIDE, shape_of, transplanted
from allocmoe.methods import for_windows, needs, sweep
from allocmoe.plan import Plan
from allocmoe.profile.run import as_record, kept
from allocmoe.tune import run as tuning
from allocmoe.tune.wish import Wish


@dataclass(frozen=True)
class Size:
    """How much is measured. `windows` of 256 tokens for calibration and for perplexity, `items` per task; quality of
    `methods` at all four budgets, speed at half of the original's activations only; then about so many `minutes` for a
    plan that fulfils WISH."""

    calibration: int
    windows: int
    items: int
    protocol: speed.Protocol
    minutes: float = 3
    methods: tuple[str, ...] = tuple(for_windows())


PAPER = ("original", "uniform", "ascending", "descending", "lexi", "alloc-l", "dynamic-moe", "naee", "alloc-t",
         "alloc-moe")  # fmt: skip
"""The methods of the paper's tables."""
QUICK = Size(
    calibration=32, windows=32, items=80, protocol=speed.Protocol(decode=16, warmups=1, runs=4), methods=PAPER
)  # fmt: skip
FULL = Size(calibration=64, windows=128, items=500, protocol=speed.Protocol(), minutes=30)
WISH = Wish(speedup=1.2)
TRIED = ("alloc-moe-refill", "oea", "alloc-moe", "uniform")
"""Methods that are tried for the wish."""
WINDOW, BATCH = 256, 8


def demo(
    model: str, out: Path, size: Size, *, shape: str | None = None, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Run everything into the folder `out`; what an earlier, interrupted run measured is kept.

    Speed is measured on `shape`; None: the wide shape that belongs to an embedded model, any other model itself.
    Returns the report's summary, with what was found for the wish (`tune`) and the paths of the page and the records.

    Raises AllocMoEError for a wide shape of another L, N or K than the model's.
    """
    engine = HFEngine.load(mini.resolve(model))
    path = out / "records.jsonl"
    calibration = windows(engine.tokenizer, "mini-train", size.calibration, WINDOW)
    wanted = needs(size.methods)
    sensitivity = kept(
        engine, calibration, BATCH, out / "profile.json", quantities=wanted, seed=seed, progress=progress
    )  # fmt: skip
    budgets = engine.spec.budgets()
    plans = sweep(engine, sensitivity, size.methods, budgets, seed=seed)
    for plan in plans:
        plan.save(out / "plans" / f"{plan.method}-{plan.budget}.json")
    if not any(r.about == "profile" and r.fingerprint == engine.fingerprint for r in records.resume(path)):
        records.append(path, as_record(engine, sensitivity))
    held_out = windows(engine.tokenizer, "mini-test", size.windows, WINDOW)
    evaluate(
        engine, plans, held_out, path,
        text_batch=BATCH, suite=TaskSuite(engine), items=size.items, seed=seed, progress=progress,
    )  # fmt: skip
    timed, timed_plans = _timed(engine, plans, shape or shape_of(model), size.methods, seed)
    if progress:
        half = timed.spec.original_budget // 2
        tqdm.write(f"speed of {timed.name}: every method at {half} activations, others not", file=sys.stderr)
    if not speed.measured(path, timed, timed_plans, size.protocol, seed):
        for record in speed.session(timed, timed_plans, size.protocol, seed, progress):
            records.append(path, record)
    if progress:
        tqdm.write(f"a plan for a wish: {WISH}", file=sys.stderr)
    where = shape or shape_of(model)
    asked = tuning.Model(model, shape=where if where in WIDE else None, methods=TRIED, seed=seed)
    wish = tuning.tune(asked, WISH, out / "tune", minutes=size.minutes, progress=progress)
    page = out / "report.html"
    found = records.load(path) + [r for r in records.load(Path(wish["records"])) if r.about == "tune"][-1:]
    report.write(found, page, f"Alloc-MoE on {model}")
    return {**report.summary(found), "tune": wish, "page": str(page), "records": str(path)}


def _timed(
    engine: HFEngine, plans: list[Plan], shape: str | None, methods: Sequence[str], seed: int
) -> tuple[HFEngine, list[Plan]]:
    """What is timed, under which plans: the original's and all at half of its activations.

    The model's own plans wherever that can be, so that a speed belongs to a quality: on the model itself (no
    shape) or on a wide shape. Another shape has other layers, so it gets plans of its own.
    """
    timed = shapes.build(shape, seed=seed) if shape else engine
    if shape and shape not in WIDE:
        known = speed.random_profile(timed, methods, seed)
        return timed, sweep(timed, known, methods, [timed.spec.original_budget // 2], seed=seed)
    chosen = [p for p in plans if p.budget in (engine.spec.original_budget, engine.spec.original_budget // 2)]
    return timed, [transplanted(p, timed, engine.name) for p in chosen] if shape else chosen
