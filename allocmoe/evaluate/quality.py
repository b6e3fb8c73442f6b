"""Quality of plans: perplexity and tasks, one record a plan, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import records
from allocmoe.engines import Engine
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.evaluate.text import Windows
from allocmoe.measure.protocol import plan_details
from allocmoe.plan import Plan
from allocmoe.records import Record


def evaluate(
    engine: Engine,
    plans: Sequence[Plan],
    text: Windows,
    out: Path,
    *,
    text_batch: int = 8,
    suite: TaskSuite | None = None,
    items: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> list[Record]:
    """Measure every plan that `out` does not hold yet, appending each record as it is made.

    Args:
        engine: of the plans' model.
        text, text_batch: windows for perplexity, and how many share a batch.
        suite: tasks to run, None for perplexity alone.
        items: items per data set, pinned; 0 leaves the tasks out.
        seed: of the choice of items.

    Returns the records of all plans, in their order.
    """
    suite = suite if items else None
    setup: dict[str, Any] = {**text.describe(), "text_batch": text_batch, "seed": seed}
    setup |= {name: value for name, value in engine.describe().items() if name not in ("device", "skips")}
    if suite:
        setup |= suite.describe(items, seed)
    known = {record.key: record for record in records.resume(out)}
    found = []
    for plan in tqdm(plans, desc="eval", unit="plan", disable=not progress):
        wanted = Record("quality", engine.name, engine.fingerprint, plan.method, plan.budget, plan.digest, setup, {})
        if wanted.key not in known:
            record = _measure(engine, plan, text, text_batch, suite, items, seed, setup)
            records.append(out, record)
            known[wanted.key] = record
        found.append(known[wanted.key])
    return found


def _measure(
    engine: Engine,
    plan: Plan,
    text: Windows,
    text_batch: int,
    suite: TaskSuite | None,
    items: int,
    seed: int,
    setup: dict[str, Any],
) -> Record:
    details = plan_details(engine, plan)
    with engine.using(plan):
        with engine.count() as spent:
            measured = perplexity(engine, text, text_batch)
        counts = spent.summary()
        metrics = {"perplexity": measured.value}
        samples: dict[str, Any] = {"nll": list(measured.nll), "window_tokens": [text.ids.shape[1] - 1] * len(text.ids)}
        if suite:
            results = suite.run(items, seed)
            metrics |= scores(results, suite.groups)
            samples["tasks"] = results
            details["groups"] = suite.groups
            details["chance"] = {n: s.chance for n, s in suite.specs.items() if s.chance is not None}
    return Record(
        about="quality",
        model=engine.name,
        fingerprint=engine.fingerprint,
        method=plan.method,
        budget=plan.budget,
        plan=plan.digest,
        setup=setup,
        metrics=metrics,
        spent=counts,
        samples=samples,
        details=details,
    )
