"""Data sets under a plan: the embedded ones by default, any task, group or tag that lm-eval knows by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import evaluator

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks import embedded, loading, table
from allocmoe.evaluate.tasks.loading import Member
from allocmoe.evaluate.tasks.planned import PlannedLM
from allocmoe.evaluate.tasks.quiet import quiet
from allocmoe.evaluate.tasks.results import Result, result
from allocmoe.evaluate.tasks.spec import spread


class TaskSuite:
    """Data sets, loaded once, to be run on one engine under many plans.

    Attributes:
        specs: name -> spec, in order.
        groups: group -> names of its data sets.
    """

    def __init__(
        self,
        engine: Any,
        names: Sequence[str] | None = None,
        batch: int = 64,
        lm: Any = None,
        *,
        cap: int | None = None,
        include: Sequence[Path | str] = (),
        stock: bool = True,
    ) -> None:
        """
        Args:
            engine: an HFEngine, or any engine with `lm`, lm-eval's own way to it (see `vllm_tasks`).
            names: of data sets, as `table.chosen` takes them; None: the embedded ones.
            batch: requests that enter one call.
            cap: tokens that a generated answer may have at most, whatever its spec says.
            include: folders of lm-eval YAML files; a task there goes before lm-eval's own of the same name.
            stock: whether lm-eval's own tasks are known; reading their files takes seconds.

        Raises AllocMoEError for a name that neither the tables nor lm-eval know.
        """
        self.engine, self.batch, self.cap = engine, batch, cap
        self.specs = {spec.name: spec for spec in table.chosen(names)}
        self.groups: dict[str, list[str]] = {}
        for name, spec in self.specs.items():
            self.groups.setdefault(spec.group, []).append(name)
        self._folder = tempfile.TemporaryDirectory(prefix="allocmoe-tasks-")
        embedded.write(Path(self._folder.name))
        foreign = not set(self.specs) <= set(table.EMBEDDED)
        with quiet():
            folders = [self._folder.name, *include]
            self.manager = loading.manager(list(self.specs.values()), folders, stock and foreign)
            self.lm: Any = lm or PlannedLM(engine, batch)
        self._loaded: dict[str, list[Member]] = {}

    @property
    def names(self) -> list[str]:
        return list(self.specs)

    def run(self, count: int, seed: int = 0) -> dict[str, Result]:
        """Per data set its items' results, on the same pinned items every time.

        Args:
            count: items per data set; one with fewer uses all.
            seed: of the choice of items, and of the examples before them.
        """
        pinned = {n: self.pinned(n, count, seed) for n in self.specs}
        asked = {n: [m for m in self._members(n) if m.name in pinned[n]] for n in self.specs}
        with quiet():
            found = evaluator.simple_evaluate(
                model=self.lm,
                tasks=[member.task for members in asked.values() for member in members],
                task_manager=self.manager,
                samples={task: ids for tasks in pinned.values() for task, ids in tasks.items()},
                batch_size=self.batch,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                verbosity="ERROR",
            )["samples"]
        return {n: result(self.specs[n], [(m, found[m.name]) for m in asked[n]]) for n in self.specs}

    def describe(self, count: int, seed: int = 0) -> dict[str, Any]:
        """For records: everything of the tasks that decides a result. The digest says it of the embedded ones."""
        found: dict[str, Any] = {"tasks": dict.fromkeys(self.specs, count), "task_batch": self.batch}
        settings = {n: self._settings(n) for n in self.specs if n not in table.EMBEDDED}
        found |= {"task_settings": settings} if settings else {}
        return found | {"task_items": self.digest(count, seed)}

    def digest(self, count: int, seed: int = 0) -> str:
        """Of the items that `run` asks, and how they are put: ids alone are places in a list."""
        asked: dict[str, Any] = {}
        for name in self.specs:
            pinned = self.pinned(name, count, seed)
            if name in table.EMBEDDED:
                lines = embedded.lines(name)
                asked[name] = [embedded.definition(name), *(lines[i] for i in pinned[name])]
            else:
                asked[name] = [_put(m, pinned[m.name], seed) for m in self._members(name) if m.name in pinned]
        return documents.digest(json.loads(json.dumps(asked, default=_plainly)))

    def pinned(self, name: str, count: int, seed: int = 0) -> dict[str, list[int]]:
        """lm-eval task -> its items, spread evenly over all items of the data set; tasks without one are left out."""
        if name in table.EMBEDDED:
            return {name: spread(len(embedded.lines(name)), count, seed)}
        sizes = {m.name: len(m.task.eval_docs) for m in self._members(name)}
        places = spread(sum(sizes.values()), count, seed)
        found, start = {}, 0
        for task, size in sizes.items():
            found[task] = [place - start for place in places if start <= place < start + size]
            start += size
        return {task: ids for task, ids in found.items() if ids}

    def _settings(self, name: str) -> dict[str, Any]:
        """What is read of a data set and how it is asked; a list where its tasks differ."""
        members = self._members(name)

        def one(field: str) -> Any:
            values = list(dict.fromkeys(getattr(m, field) for m in members))
            return values[0] if len(values) == 1 else values

        shown = {field: one(field) for field in ("metric", "filter", "shots", "cap")}
        return shown | {"members": len(members), "mean_over": "items"}

    def _members(self, name: str) -> list[Member]:
        """The lm-eval tasks of a data set, loaded when first asked for."""
        if name not in self._loaded:
            with quiet():
                found = loading.members(self.specs[name], self.manager, self.cap, self.lm)
            for other, theirs in self._loaded.items():
                twice = {m.name for m in found} & {m.name for m in theirs}
                if twice:
                    raise AllocMoEError(f"{min(twice)} is in both {other} and {name}: name one of them")
            self._loaded[name] = found
        return self._loaded[name]


def _put(member: Member, ids: list[int], seed: int) -> list[Any]:
    """A task's items as the model gets them (examples included), what counts as right, and how answers are read."""
    task = member.task
    task.set_fewshot_seed(seed)
    with quiet():
        task.build_all_requests(samples=ids)
    requests = [[r.doc_id, r.idx, r.args] for r in task.instances]
    docs = [task.eval_docs[i] for i in ids]
    read = [task.VERSION, member.metric, member.filter, member.shots, member.cap, task.get_config("filter_list")]
    return [member.name, read, requests, [[i, d, task.doc_to_target(d)] for i, d in zip(ids, docs, strict=True)]]


def _plainly(value: Any) -> str:
    """What JSON has no word for: code by its name, since its address in memory differs from run to run."""
    return str(getattr(value, "__qualname__", None) or value)
