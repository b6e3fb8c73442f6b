"""Data roots: lm-eval's own tasks on local files, for machines without a network.

A root holds a folder a data set, with a JSON Lines file a split, named as the task names the split:

    root/boolq/validation.jsonl
    root/glue/mnli/validation_matched.jsonl
    root/mmlu/anatomy/test.jsonl

A task's folder is the one of the task's own name, else that of its data set on the hub (its name without the owner,
and below it the configuration's name if there are several). Letter case and punctuation do not matter. The task keeps
its definition: prompts, choices, examples, filters. Only the place of its data changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from allocmoe.errors import AllocMoEError

BUILDERS = ("json", "csv", "parquet", "text", "arrow")  # of `datasets`: files, no data set's name
EVALUATED = ("test_split", "validation_split")  # lm-eval's order: the first that a task has is what it asks
SPLITS = (*EVALUATED, "training_split", "fewshot_split")
IN_PYTHON = "it is written in Python, and asks the hub for its data"
"""Why a root cannot serve a task that is no definition."""
TAG, GROUP, TASK = "TAG", "GROUP", "TASK"  # kinds in lm-eval's index


def leaves(name: str, index: Mapping[str, Any]) -> list[str]:
    """The single tasks that a name of lm-eval (a task, group or tag) stands for, in its order."""

    def walk(one: str) -> Iterator[str]:
        entry = index.get(one)
        if entry is None:
            return
        if entry.kind.name == TAG:
            for tagged in sorted(entry.tags):
                yield from walk(tagged)
        elif entry.kind.name == GROUP:
            yield from members((entry.cfg or {}).get("task"))
        else:
            yield one

    def members(listed: Any) -> Iterator[str]:
        for child in [listed] if isinstance(listed, str) else listed or ():
            if isinstance(child, str):
                yield from walk(child)
            elif "group" in child and child["group"] not in index:
                yield from members(child.get("task"))
            else:
                yield from walk(child.get("group") or child["task"])

    return list(dict.fromkeys(walk(name)))


def places(task: str, definition: Mapping[str, Any]) -> list[str]:
    """Where a task's data may lie below a root, best first."""
    found, family = [task], str(definition.get("dataset_path") or "").rsplit("/", 1)[-1]
    if family and family not in BUILDERS:
        kind = definition.get("dataset_name")
        found += [f"{family}/{kind}"] if kind else []
        found.append(family)
    return list(dict.fromkeys(found))


class Root:
    """A folder of local data.

    Raises AllocMoEError if there is none.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise AllocMoEError(f"no data root {folder}: expected a folder; `allocmoe data fetch` makes one")
        self._known: dict[str, dict[str, Path]] = {}
        for file in sorted(self.folder.rglob("*.jsonl")):
            at = _plain(str(file.parent.relative_to(self.folder)))
            self._known.setdefault(at, {})[file.stem] = file

    def files(self, task: str, definition: Mapping[str, Any]) -> dict[str, Path]:
        """Split -> file, of a task that is defined so; AllocMoEError says what is missing."""
        wanted = places(task, definition)
        found = next((self._known[_plain(place)] for place in wanted if _plain(place) in self._known), None)
        if found is None:
            raise AllocMoEError(f"no folder {' or '.join(wanted)} in {self.folder.name}")
        asked = next((definition[split] for split in EVALUATED if definition.get(split)), None)
        examples = definition.get("fewshot_split") or definition.get("training_split")
        written = (definition.get("fewshot_config") or {}).get("samples")  # in the definition itself
        for split in [asked, examples if definition.get("num_fewshot") and not written else None]:
            if split and split not in found:
                where = next(iter(found.values())).parent.relative_to(self.folder)
                raise AllocMoEError(f"no file {split}.jsonl in {where}, which has {', '.join(sorted(found))}")
        return found


def use(root: Root, names: Iterable[str], manager: Any, scratch: Path) -> dict[str, str]:
    """Turn the tasks behind `names` to the data of a root; task -> why it cannot be, for those without.

    Args:
        names: of tasks, groups or tags.
        manager: lm-eval's TaskManager; its index is changed.
        scratch: a folder for definitions and for what `datasets` keeps.
    """
    index, missing = manager.task_index, {}
    for task in dict.fromkeys(leaf for name in names for leaf in leaves(name, index)):
        entry = index[task]
        if entry.kind.name != TASK:
            missing[task] = IN_PYTHON
            continue
        try:
            files = root.files(task, entry.cfg)
        except AllocMoEError as error:
            missing[task] = str(error)
            continue
        local = scratch / "local" / f"{task}.yaml"
        local.parent.mkdir(parents=True, exist_ok=True)
        changed = {
            "include": str(entry.yaml_path), "task": task, "dataset_path": "json", "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: str(file) for split, file in files.items()}, "cache_dir": str(scratch / "cache"),
            },
        }  # fmt: skip
        for split in ("training_split", "validation_split", "fewshot_split"):  # lm-eval opens them, asked or not
            if entry.cfg.get(split) and entry.cfg[split] not in files:
                changed[split] = None
        local.write_text(json.dumps(changed, ensure_ascii=False), "utf-8")  # YAML too, but for JSON's escapes
        index[task] = replace(entry, yaml_path=local, cfg={**entry.cfg, **changed})
    return missing


def _plain(place: str) -> str:
    """Without letter case and punctuation: acp_bench is acpbench."""
    return "/".join(re.sub(r"[^a-z0-9]", "", part.lower()) for part in place.split("/"))
