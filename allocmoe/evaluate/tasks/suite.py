"""Data sets under a plan: the embedded ones by default, any task, group or tag that lm-eval knows by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import evaluator

from allocmoe import documents
from allocmoe.errors import AllocMoEError, first_line
from allocmoe.evaluate.tasks import embedded, loading, roots, table
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
        missing: name -> why it is left out.
        units: names that share lm-eval's batches, in order: the embedded ones together, any other by itself, so that
            its results do not depend on what else was asked, even under a rule that looks at the whole batch.
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
        data_root: Path | str | None = None,
        partial: bool = False,
    ) -> None:
        """
        Args:
            engine: an HFEngine, or any engine with `lm`, lm-eval's own way to it (see `vllm_tasks`).
            names: of data sets, as `table.chosen` takes them; None: the embedded ones.
            batch: requests that enter one call.
            cap: tokens that a generated answer may have at most, whatever its spec says.
            include: folders of lm-eval YAML files; a task there goes before lm-eval's own of the same name.
            stock: whether lm-eval's own tasks are known; reading their files takes seconds.
            data_root: where the data of lm-eval's own tasks lies, see `roots`; None: they ask the hub for it.
            partial: leave out data sets that cannot be had here, and say so in `missing`.

        Raises AllocMoEError for a name that neither the tables nor lm-eval know, for a data root that is none, and,
        unless `partial`, for a data set that it lacks.
        """
        self.engine, self.batch, self.cap = engine, batch, cap
        self.specs = {spec.name: spec for spec in table.chosen(names)}
        self.missing: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="allocmoe-tasks-")
        embedded.write(Path(self._folder.name))
        foreign = not set(self.specs) <= set(table.EMBEDDED)
        with quiet():
            folders = [self._folder.name, *include]
            self.manager = loading.manager(list(self.specs.values()), folders, stock and foreign)
            self.lm: Any = lm or PlannedLM(engine, batch)
        self._loaded: dict[str, list[Member]] = {}
        if data_root is not None:
            self._take_from(roots.Root(data_root), partial)
        if partial and foreign:
            self._drop_what_cannot_be_had()
        if not self.specs:
            raise AllocMoEError(f"none of the data sets can be had here: {_listed(self.missing)}")
        self.groups: dict[str, list[str]] = {}
        for name, spec in self.specs.items():
            self.groups.setdefault(spec.group, []).append(name)
        here = [name for name in self.specs if name in table.EMBEDDED]
        self.units = ([here] if here else []) + [[name] for name in self.specs if name not in here]

    @property
    def names(self) -> list[str]:
        return list(self.specs)

    def run(self, count: int, seed: int = 0, names: Sequence[str] | None = None) -> dict[str, Result]:
        """Per data set its items' results, on the same pinned items every time.

        Args:
            count: items per data set; one with fewer uses all.
            seed: of the choice of items, and of the examples before them.
            names: of the data sets that are wanted, whole units; None: all.
        """
        units = self.units if names is None else [unit for unit in self.units if set(unit) <= set(names)]
        found: dict[str, Result] = {}
        for unit in units:
            found |= self._run(unit, count, seed)
        return {name: found[name] for name in self.specs if name in found}

    def _run(self, unit: Sequence[str], count: int, seed: int) -> dict[str, Result]:
        pinned = {n: self.pinned(n, count, seed) for n in unit}
        asked = {n: [m for m in self._members(n) if m.name in pinned[n]] for n in unit}
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
        return {n: result(self.specs[n], [(m, found[m.name]) for m in asked[n]]) for n in unit}

    def describe(self, count: int, seed: int = 0, names: Sequence[str] | None = None) -> dict[str, Any]:
        """For records: everything of the tasks (of `names`; None: all) that decides a result. The digest says it of
        the embedded ones."""
        wanted = [n for n in self.specs if names is None or n in names]
        found: dict[str, Any] = {"tasks": dict.fromkeys(wanted, count), "task_batch": self.batch}
        settings = {n: self._settings(n) for n in wanted if n not in table.EMBEDDED}
        found |= {"task_settings": settings, "task_batches": "one data set each"} if settings else {}
        return found | {"task_items": self.digest(count, seed, wanted)}

    def digest(self, count: int, seed: int = 0, names: Sequence[str] | None = None) -> str:
        """Of the items that `run` asks, and how they are put: ids alone are places in a list."""
        asked: dict[str, Any] = {}
        for name in self.specs if names is None else names:
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

    def _take_from(self, root: roots.Root, partial: bool) -> None:
        """Turn the tasks to the data of a root; leave out what it lacks, or refuse it."""
        foreign = [spec for name, spec in self.specs.items() if name not in table.EMBEDDED]
        lacking = roots.use(root, [n for spec in foreign for n in spec.asked], self.manager, Path(self._folder.name))
        index = self.manager.task_index
        for spec in foreign:
            tasks = [leaf for asked in spec.asked for leaf in roots.leaves(asked, index)]
            without = [task for task in tasks if task in lacking]
            if without:
                some = f"{len(without)} of its {len(tasks)} tasks, first {without[0]}: " if len(tasks) > 1 else ""
                self.missing[spec.name] = f"{some}{lacking[without[0]]}"
                del self.specs[spec.name]
        if self.missing and not partial:
            raise AllocMoEError(f"the data root lacks {_listed(self.missing)}")

    def _drop_what_cannot_be_had(self) -> None:
        for name in [name for name in self.specs if name not in table.EMBEDDED]:
            try:
                self._members(name)
            except loading.MissingDataError as error:
                self.missing[name] = str(error)
                del self.specs[name]

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
    try:
        with quiet():
            task.build_all_requests(samples=ids)
    except Exception as error:  # a field that the prompt needs is gone or another kind: of many kinds
        raise AllocMoEError(
            f"items of {member.name} are not as its definition expects: {first_line(error, kind=True)}; "
            "are they of lm-eval's version?"
        ) from None
    requests = [[r.doc_id, r.idx, r.args] for r in task.instances]
    docs = [task.eval_docs[i] for i in ids]
    read = [task.VERSION, member.metric, member.filter, member.shots, member.cap, task.get_config("filter_list")]
    return [member.name, read, requests, [[i, d, task.doc_to_target(d)] for i, d in zip(ids, docs, strict=True)]]


def _listed(missing: dict[str, str]) -> str:
    return "; ".join(f"{name} ({why})" for name, why in missing.items())


def _plainly(value: Any) -> str:
    """What JSON has no word for: code by its name, since its address in memory differs from run to run."""
    return str(getattr(value, "__qualname__", None) or value)
