"""Quality of plans: perplexity and tasks, one record a plan, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import records
from allocmoe.data.text import Windows
from allocmoe.engines import PASSES, Engine
from allocmoe.errors import AllocMoEError, shown
from allocmoe.evaluate.perplexity import Reference, perplexity
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
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
    passes: str = "prefill",
    progress: bool = True,
) -> list[Record]:
    """Measure every plan that `out` does not hold yet, appending each record as it is made.

    A record holds perplexity and, where the engine gives full logits (transformers; vLLM gives the most likely ones
    alone), KL divergence from the unchanged model and the share of changed most likely tokens: of each window, and in
    `details` by position and, for an embedded text, by kind of text. The unchanged model's pass is shared by the plans.

    Args:
        engine: of the plans' model.
        text, text_batch: windows for perplexity, and how many share a batch.
        suite: tasks to run, None for perplexity alone.
        items: items per data set, pinned; 0 leaves the tasks out.
        seed: of the choice of items.
        passes: one of PASSES, for the text; tasks run as lm-eval runs them. With "decode" each layer decides as it
            would in decoding `text_batch` windows side by side, and distinct experts are counted per step.

    Returns the records of all plans, in their order.

    Raises AllocMoEError for unknown passes, and for "decode" with an engine that cannot.
    """
    if passes not in PASSES:
        raise AllocMoEError(f"unknown passes {shown(passes)}: expected {' or '.join(PASSES)}")
    if passes == "decode" and not engine.full_logits:
        raise AllocMoEError("this engine cannot evaluate as if decoding: use the transformers engine for it")
    suite = suite if items else None
    setup: dict[str, Any] = {**text.describe(), "text_batch": text_batch, "seed": seed}
    setup |= {name: value for name, value in engine.describe().items() if name not in ("device", "skips")}
    if passes != "prefill":  # setups of records from before there was a choice stay equal
        setup["passes"] = passes
    if suite:
        setup |= suite.describe(items, seed)
    known = {record.key: record for record in records.resume(out)}
    reference = Reference(engine, text, text_batch) if engine.full_logits else None
    found = []
    for plan in tqdm(plans, desc="eval", unit="plan", disable=not progress):
        wanted = Record("quality", engine.name, engine.fingerprint, plan.method, plan.budget, plan.digest, setup, {})
        if wanted.key not in known:
            record = _measure(engine, plan, text, reference, suite, items, setup)
            records.append(out, record)
            known[wanted.key] = record
        found.append(known[wanted.key])
    return found


def _measure(
    engine: Engine,
    plan: Plan,
    text: Windows,
    reference: Reference | None,
    suite: TaskSuite | None,
    items: int,
    setup: dict[str, Any],
) -> Record:
    details = plan.described()
    decoding = engine.as_decode() if setup.get("passes") == "decode" else nullcontext()
    with engine.using(plan):
        with engine.count() as spent, decoding:
            measured = perplexity(engine, text, setup["text_batch"], reference)
        counts = spent.summary()
        metrics = {"perplexity": measured.value}
        samples: dict[str, Any] = {"nll": list(measured.nll), "window_tokens": [text.ids.shape[1] - 1] * len(text.ids)}
        if measured.distance:
            metrics |= measured.distance.means()
            samples |= measured.distance.per_window()
            details["by_position"] = measured.distance.by_position()
            if text.kinds:
                details["by_kind"] = measured.distance.by_kind(text.kinds)
        if suite:
            results = suite.run(items, setup["seed"])
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
