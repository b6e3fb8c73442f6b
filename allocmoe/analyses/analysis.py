"""What an analysis is, and what there is to measure with.

An analysis is a file of this package that ends in `ANALYSIS = Analysis(...)`, a row of `ANALYSES`, a section of the
report of the same name, and an oracle in `tests/analyses/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from allocmoe import documents, records
from allocmoe.methods import method, sweep
from allocmoe.records import Record

if TYPE_CHECKING:
    from allocmoe.data.text import Windows
    from allocmoe.engines.hf import HFEngine
    from allocmoe.evaluate.quality import Job, Measurer
    from allocmoe.evaluate.tasks.suite import TaskSuite
    from allocmoe.plan import Plan
    from allocmoe.profile.sensitivity import Sensitivity

T = TypeVar("T")
Rows = Mapping[str, Sequence["Plan"]]
"""A table of an analysis: label of a row -> its plans, one a budget."""


@dataclass(frozen=True)
class Setting:
    """What there is to measure with.

    Attributes:
        engine: of the model.
        text, batch: held-out windows, and how many share a batch.
        out: records file, appended to.
        profiles: of calibration windows, the profile that holds the quantities named; made when first asked for.
        calibrations: calibration texts; the first is the one that plans are made with.
        suite, items: tasks, and items of each; None and 0 for perplexity alone.
        budgets: B of each setting.
        earlier: records of other files, by key: what they hold is not measured again.
        seed: of everything random.
        progress: whether to draw bars.
    """

    engine: HFEngine
    text: Windows
    batch: int
    out: Path
    profiles: Callable[[Windows, Sequence[str]], Sensitivity]
    calibrations: tuple[Windows, ...]
    suite: TaskSuite | None = None
    items: int = 0
    budgets: tuple[int, ...] = ()
    earlier: Mapping[str, Record] = field(default_factory=dict)
    seed: int = 0
    progress: bool = True

    @property
    def half(self) -> int:
        """Half of the model's own activations."""
        return self.engine.spec.original_budget // 2

    def plans(self, names: Sequence[str], budgets: Sequence[int], **options: Any) -> list[Plan]:
        """`original`, then every method at every budget; see `methods.sweep`."""
        needed = list(dict.fromkeys(n for name in names for n in method(name).needs))
        known = self.profiles(self.calibrations[0], needed) if needed else None
        return sweep(self.engine, known, names, budgets, seed=self.seed, **options)

    def record(self, name: str, plan: Plan, **own: Any) -> Record:
        """An empty record of an analysis of a plan on the text, with what else of it decides the result."""
        setup: dict[str, Any] = {**self.text.describe(), "text_batch": self.batch, "seed": self.seed}
        setup |= {n: v for n, v in self.engine.describe().items() if n not in ("device", "skips")}
        setup["analysis"] = {"name": name, **own}
        model = self.engine.name, self.engine.fingerprint
        return Record(
            "analysis", *model, plan.method, plan.budget, plan.digest, setup, {}, details=plan.described()
        )  # fmt: skip

    def bar(self, steps: Sequence[T], name: str) -> Iterable[T]:
        """The steps of an analysis, with a bar over them."""
        from tqdm import tqdm

        found: Iterable[T] = tqdm(steps, desc=name, unit="plan", delay=2, disable=not self.progress)
        return found

    def once(self, empty: Record, measure: Callable[[], Mapping[str, Any]]) -> Record:
        """The record of this key: from a file that has it, or filled with what `measure` returns, and appended."""
        known = {**self.earlier, **{r.key: r for r in records.resume(self.out)}}
        if empty.key not in known:
            made = replace(empty, **measure())
            records.append(self.out, made)
            return made
        return known[empty.key]

    def quality(self, plans: Sequence[Plan], name: str = "") -> list[Record]:
        """Quality of plans, of those that no file holds as part of the analysis of that name; see `evaluate`.

        Records of an analysis are not about "quality": those compare methods, and an analysis has several plans of one.
        But where there is a quality record of a plan already, it will do.
        """
        from allocmoe.evaluate.quality import fill

        plain = self._measurer()
        asked: Any = PartOf(plain, name) if name else plain
        known = {**self.earlier, **{r.key: r for r in records.resume(self.out)}}
        keys = {p.digest: [measurer.wanted(p).key for measurer in (asked, plain)] for p in plans}
        found = {digest: next((known[k] for k in both if k in known), None) for digest, both in keys.items()}
        rest = [plan for plan in plans if found[plan.digest] is None]
        made = {r.plan: r for r in fill(asked, rest, self.out, progress=self.progress)} if rest else {}
        return [found[plan.digest] or made[plan.digest] for plan in plans]

    def table(self, name: str, rows: Rows, details: Mapping[str, Any] | None = None) -> list[Record]:
        """Quality of every distinct plan of a table, and a record that says which plan stands where.

        That record's details hold `rows`: label -> budget -> digest of the plan, whose quality is a record of its own.
        """
        distinct = {plan.digest: plan for plans in rows.values() for plan in plans}
        placed = {label: {str(plan.budget): plan.digest for plan in plans} for label, plans in rows.items()}
        told = {**(details or {}), "rows": placed, "original_budget": self.engine.spec.original_budget}
        told |= {"shape": [self.engine.spec.layers, self.engine.spec.top_k]}
        (whole,) = self.plans(["original"], [])
        found = self.quality([whole, *distinct.values()], name)
        wanted = self._measurer().wanted(whole)
        setup = {**wanted.setup, "analysis": {"name": name, "rows": documents.digest(placed)}}
        empty = replace(wanted, about="analysis", method=None, budget=None, plan=None, setup=setup)
        return [*found, self.once(empty, lambda: {"details": told})]

    def _measurer(self) -> Measurer:
        from allocmoe.evaluate.quality import Measurer

        return Measurer(
            self.engine, self.text, text_batch=self.batch, suite=self.suite, items=self.items, seed=self.seed
        )  # fmt: skip


@dataclass(frozen=True)
class PartOf:
    """A `Measurer` whose records are part of an analysis. It stands for one in `evaluate.quality.fill`."""

    measurer: Measurer
    name: str

    @property
    def parts(self) -> list[str]:
        return self.measurer.parts

    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record]]:
        return self.measurer.work(jobs)

    def wanted(self, plan: Plan, part: str | None = None) -> Record:
        found = self.measurer.wanted(plan, part)
        return self._named(found) if part is None else found

    def join(self, plan: Plan, parts: Iterable[Record]) -> Record:
        return self._named(self.measurer.join(plan, parts))

    def _named(self, record: Record) -> Record:
        return replace(record, about="analysis", setup={**record.setup, "analysis": {"name": self.name}})


@dataclass(frozen=True)
class Analysis:
    """One analysis.

    Attributes:
        name: in records, of its section, and on the command line.
        about: what it asks, in words.
        paper: where the paper has it.
        run: of a setting, the records, in which nothing is measured twice.
        scored: whether it measures tasks.
    """

    name: str
    about: str
    paper: str
    run: Callable[[Setting], list[Record]]
    scored: bool = True
