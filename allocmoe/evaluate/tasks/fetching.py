"""Making a data root: every split that lm-eval's tasks name, from the hub into JSON Lines files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks import loading, roots, table
from allocmoe.evaluate.tasks.quiet import quiet


@dataclass(frozen=True)
class Found:
    """What a root holds of a data set.

    Attributes:
        name: of the data set.
        tasks, here: how many lm-eval tasks make it up, and how many of them the root has.
        rows: that are asked, over the tasks that are here.
        missing: why it cannot be used; empty if it can.
    """

    name: str
    tasks: int
    here: int
    rows: int
    missing: str = ""


def look(
    folder: Path | str, names: Sequence[str], include: Sequence[Path | str] = (), stock: bool = True
) -> list[Found]:
    """What a root holds of data sets; `names`, `include` and `stock` as in `TaskSuite`."""
    root, known, found = roots.Root(folder), _known(names, include, stock), []
    for spec in _foreign(names):
        tasks = [leaf for asked in spec.asked for leaf in roots.leaves(asked, known.task_index)]
        rows, lacking = 0, {}
        for task in tasks:
            entry = known.task_index[task]
            definition = entry.cfg
            if entry.kind.name != roots.TASK:
                lacking[task] = roots.IN_PYTHON
                continue
            try:
                files = root.files(task, definition)
                asked_split = next(definition[s] for s in roots.EVALUATED if definition.get(s))
                with files[asked_split].open("rb") as file:
                    rows += sum(1 for line in file if line.strip())
            except AllocMoEError as error:
                lacking[task] = str(error)
        why = f"{next(iter(lacking))}: {next(iter(lacking.values()))}" if lacking else ""
        found.append(Found(spec.name, len(tasks), len(tasks) - len(lacking), rows, why))
    return found


def fetch(
    folder: Path | str,
    names: Sequence[str],
    include: Sequence[Path | str] = (),
    stock: bool = True,
    progress: bool = True,
) -> dict[str, str]:
    """Write the data of data sets below `folder`; what is there already stays. Task -> why it could not be had.

    Splits are whole, so that examples before a question are those that the hub's data would give.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    known, failed = _known(names, include, stock), {}
    tasks = [t for spec in _foreign(names) for one in spec.asked for t in roots.leaves(one, known.task_index)]
    for task in tqdm(list(dict.fromkeys(tasks)), desc="fetch", unit="task", disable=not progress):
        entry = known.task_index[task]
        definition = entry.cfg or {}
        if entry.kind.name != roots.TASK:
            failed[task] = roots.IN_PYTHON
            continue
        try:
            roots.Root(folder).files(task, definition)
            continue
        except AllocMoEError:
            pass
        try:
            with quiet():
                data: Any = known.load([task])["tasks"][task].dataset
        except Exception as error:  # of lm-eval's, the hub's and the network's many kinds
            failed[task] = loading.reason(error)
            continue
        place = Path(folder, *roots.places(task, definition)[:2][-1:])  # what tasks of one data set share
        named = {definition[split] for split in roots.SPLITS if definition.get(split)}
        for split in sorted(named & set(data)):
            _write(data[split], place / f"{split}.jsonl")
    return failed


def _write(rows: Any, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = to.with_suffix(".unfinished")
    with quiet():
        rows.to_json(str(unfinished), lines=True, force_ascii=False)
    os.replace(unfinished, to)


def _foreign(names: Sequence[str]) -> list[Any]:
    return [spec for spec in table.chosen(names) if spec.name not in table.EMBEDDED]


def _known(names: Sequence[str], include: Sequence[Path | str], stock: bool) -> Any:
    return _manager(tuple(names), tuple(map(str, include)), stock)


@lru_cache(1)  # reading lm-eval's own files takes seconds
def _manager(names: tuple[str, ...], include: tuple[str, ...], stock: bool) -> Any:
    with quiet():
        return loading.manager(_foreign(names), include, stock)
