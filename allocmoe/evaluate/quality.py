"""Quality of plans: perplexity and tasks, one record a plan, resumable.

A plan's quality has parts: the text, and each unit of data sets (see `TaskSuite.units`). `Measurer` measures one part
under one plan; `fill` asks for what is missing, here or from workers, and joins parts to records. Parts that took long
are kept beside the records, in `<name>.parts.jsonl`, by everything that decides them: an interrupted sweep goes on at
the next data set, and a data set that is added later leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import records
from allocmoe.data.text import Windows
from allocmoe.engines import PASSES, Engine
from allocmoe.errors import AllocMoEError, shown
from allocmoe.evaluate.perplexity import Reference, perplexity
from allocmoe.evaluate.tasks import table
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.spec import MoESpec

TEXT = "text"
Job = tuple[Plan, str]
"""A plan, and the part of its quality to measure."""


class Measurer:
    """One engine, one text and one suite, under any plan.

    A record of the text holds perplexity and, where the engine gives full logits (transformers; vLLM gives the most
    likely ones alone), KL divergence from the unchanged model and the share of changed most likely tokens: of each
    window, and in `details` by position and, for an embedded text, by kind of text. The unchanged model's pass is
    shared by the plans.
    """

    def __init__(
        self,
        engine: Engine,
        text: Windows,
        *,
        text_batch: int = 8,
        suite: TaskSuite | None = None,
        items: int = 0,
        seed: int = 0,
        passes: str = "prefill",
    ) -> None:
        """
        Args:
            engine: of the plans' model.
            text, text_batch: windows for perplexity, and how many share a batch.
            suite: tasks to run, None for perplexity alone.
            items: items per data set, pinned; 0 leaves the tasks out.
            seed: of the choice of items.
            passes: one of PASSES, for the text; tasks run as lm-eval runs them. With "decode" each layer decides as
                it would in decoding `text_batch` windows side by side, and distinct experts are counted per step.

        Raises AllocMoEError for unknown passes, and for "decode" with an engine that cannot.
        """
        if passes not in PASSES:
            raise AllocMoEError(f"unknown passes {shown(passes)}: expected {' or '.join(PASSES)}")
        if passes == "decode" and not engine.full_logits:
            raise AllocMoEError("this engine cannot evaluate as if decoding: use the transformers engine for it")
        self.engine, self.text, self.text_batch, self.items, self.seed = engine, text, text_batch, items, seed
        self.suite, self.passes = (suite if items else None), passes
        self._units = {_named(unit): unit for unit in self.suite.units} if self.suite else {}
        self._reference: Reference | None = None

    @property
    def spec(self) -> MoESpec:
        return self.engine.spec

    @property
    def fingerprint(self) -> str:
        return self.engine.fingerprint

    @property
    def missing(self) -> dict[str, str]:
        """Data sets that were asked for and cannot be had: name -> why."""
        return self.suite.missing if self.suite else {}

    @property
    def parts(self) -> list[str]:
        return [TEXT, *self._units]

    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record]]:
        """Measure one job after the other."""
        for plan, part in jobs:
            yield (plan, part), self.measure(plan, part)

    def wanted(self, plan: Plan, part: str | None = None) -> Record:
        """An empty record of what is to be measured: a part, or the whole (None). Its key says what decides it."""
        engine = {n: v for n, v in self.engine.describe().items() if n not in ("device", "skips")}
        setup: dict[str, Any] = {}
        if part in (None, TEXT):
            setup = {**self.text.describe(), "text_batch": self.text_batch}
        setup |= {"seed": self.seed, **engine}
        if self.passes != "prefill" and part in (None, TEXT):  # setups from before there was a choice stay equal
            setup["passes"] = self.passes
        if self.suite and part != TEXT:
            setup |= self.suite.describe(self.items, self.seed, None if part is None else self._units[part])
        return Record(
            "quality" if part is None else "part",
            self.engine.name, self.engine.fingerprint, plan.method, plan.budget, plan.digest, setup, {},
        )  # fmt: skip

    def measure(self, plan: Plan, part: str) -> Record:
        """One part under one plan."""
        with self.engine.using(plan):
            found = self._of_text() if part == TEXT else self._of_tasks(self._units[part])
        return replace(self.wanted(plan, part), **found)

    def join(self, plan: Plan, parts: Iterable[Record]) -> Record:
        """A plan's record, from all of its parts."""
        metrics: dict[str, float] = {}
        spent: dict[str, Any] = {}
        samples: dict[str, Any] = {}
        results: dict[str, Any] = {}
        details = plan.described()
        for part in parts:
            metrics |= part.metrics
            details |= part.details
            spent |= part.spent
            results |= part.samples.get("tasks", {})
            samples |= {name: value for name, value in part.samples.items() if name != "tasks"}
        if self.suite:
            ordered = {name: results[name] for name in self.suite.names}
            metrics |= scores(ordered, self.suite.groups)
            samples["tasks"] = ordered
            details["groups"] = self.suite.groups
            details["chance"] = {n: s.chance for n, s in self.suite.specs.items() if s.chance is not None}
            details |= {"missing": self.suite.missing} if self.suite.missing else {}
        return replace(self.wanted(plan), metrics=metrics, spent=spent, samples=samples, details=details)

    def _of_text(self) -> dict[str, Any]:
        if self._reference is None and self.engine.full_logits:
            self._reference = Reference(self.engine, self.text, self.text_batch)
        decoding = self.engine.as_decode() if self.passes == "decode" else nullcontext()
        with self.engine.count() as spent, decoding:
            measured = perplexity(self.engine, self.text, self.text_batch, self._reference)
        metrics, details = {"perplexity": measured.value}, dict[str, Any]()
        windows = self.text.ids
        samples: dict[str, Any] = {"nll": list(measured.nll), "window_tokens": [windows.shape[1] - 1] * len(windows)}
        if measured.distance:
            metrics |= measured.distance.means()
            samples |= measured.distance.per_window()
            details["by_position"] = measured.distance.by_position()
            if self.text.kinds:
                details["by_kind"] = measured.distance.by_kind(self.text.kinds)
        return {"metrics": metrics, "samples": samples, "details": details, "spent": spent.summary()}

    def _of_tasks(self, unit: Sequence[str]) -> dict[str, Any]:
        if self.suite is None:
            raise AllocMoEError("there are no tasks to measure")
        return {"samples": {"tasks": self.suite.run(self.items, self.seed, unit)}}


def evaluate(
    engine: Engine, plans: Sequence[Plan], text: Windows, out: Path, *, progress: bool = True, **options: Any
) -> list[Record]:
    """`fill` with a Measurer of this engine and text; its options are a Measurer's."""
    return fill(Measurer(engine, text, **options), plans, out, progress=progress)


def fill(measurer: Any, plans: Sequence[Plan], out: Path, *, progress: bool = True) -> list[Record]:
    """Measure every plan that `out` does not hold yet, appending each record as soon as its parts are there.

    Args:
        measurer: a Measurer, or `evaluate.workers.Workers`, which stand for one.
        plans: what to measure; the records come in their order.
    """
    known = {record.key: record for record in records.resume(out)}
    wanted = {plan.digest: measurer.wanted(plan).key for plan in plans}
    open_plans = {plan.digest: plan for plan in plans if wanted[plan.digest] not in known}
    keeping = len(measurer.parts) > 2
    beside = Path(out).with_suffix(".parts.jsonl")
    kept = {record.key: record for record in (records.resume(beside) if keeping else ())}
    found: dict[str, dict[str, Record]] = {}
    jobs: list[Job] = []
    for digest, plan in open_plans.items():
        keys = {part: measurer.wanted(plan, part).key for part in measurer.parts}
        found[digest] = {part: kept[key] for part, key in keys.items() if key in kept}
        jobs += [(plan, part) for part in measurer.parts if part not in found[digest]]

    def join() -> None:
        for digest in [d for d, parts in found.items() if len(parts) == len(measurer.parts)]:
            parts = found.pop(digest)
            record = measurer.join(open_plans[digest], [parts[part] for part in measurer.parts])
            records.append(out, record)
            known[wanted[digest]] = record

    join()
    if jobs:
        results = measurer.work(jobs)
        for (plan, part), record in tqdm(results, total=len(jobs), desc="eval", unit="part", disable=not progress):
            if keeping:
                records.append(beside, record)
            found[plan.digest][part] = record
            join()
    return [known[wanted[plan.digest]] for plan in plans]


def _named(unit: Sequence[str]) -> str:
    return "embedded" if unit[0] in table.EMBEDDED else unit[0]
