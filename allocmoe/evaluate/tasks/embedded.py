"""The embedded tasks' files: where they are, and what their items say without lm-eval."""

from __future__ import annotations

import json
from pathlib import Path

from allocmoe.mini import items

FOLDER = Path(items.__file__).parent / "tasks"


def write(folder: Path) -> None:
    """The embedded tasks with absolute paths to their data, which `datasets` needs; as JSON, which is YAML too."""
    for yaml in FOLDER.glob("*.yaml"):
        data = {s: str(FOLDER / f"{yaml.stem}.{s}.jsonl") for s in ("train", "test")}
        kwargs = json.dumps({"data_files": data, "cache_dir": f"{folder}/cache"}, ensure_ascii=False)
        Path(folder, yaml.name).write_text(f"{yaml.read_text('utf-8')}dataset_kwargs: {kwargs}\n", "utf-8")


def lines(name: str) -> list[str]:
    """Items of a task, one JSON document each, without loading it."""
    return (FOLDER / f"{name}.test.jsonl").read_text("utf-8").splitlines()


def definition(name: str) -> str:
    """How the items of a task are put."""
    return (FOLDER / f"{name}.yaml").read_text("utf-8")
