"""Small lm-eval tasks in a folder, of the same build as the stock ones that are special."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import yaml

STOCK = Path(lm_eval.__file__).parent / "tasks"
CHOICE = {
    "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "choices",
    "doc_to_target": "answer", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
}  # fmt: skip
WRITE = {
    "output_type": "generate_until", "doc_to_text": "{{prompt}}", "doc_to_target": "{{target}}",
    "target_delimiter": " ", "metric_list": [{"metric": "exact_match"}],
    "generation_kwargs": {"until": ["\n"], "do_sample": False},
}  # fmt: skip
FILTERS = [
    {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
    for name, pattern in (("strict-match", r"^ *(\d+)"), ("flexible-extract", r"(never written)"))
]


def put(folder: Path, name: str, docs: list[dict[str, Any]], settings: dict[str, Any], train: Any = None) -> None:
    """One task; `train` are the documents that examples are taken from."""
    data = folder / "data" / name
    data.mkdir(parents=True, exist_ok=True)
    for split, rows in (("test", docs), ("train", train or docs)):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    files = {split: str(data / f"{split}.jsonl") for split in ("test", "train")}
    whole = {
        "task": name, "dataset_path": "json", "dataset_name": None, "test_split": "test", "training_split": "train",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")}, "metadata": {"version": 1},
        **settings,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole), "utf-8")


def group(folder: Path, name: str, members: list[str]) -> None:
    (folder / f"_{name}.yaml").write_text(yaml.safe_dump({"group": name, "task": members}), "utf-8")


def choices(first: int, count: int) -> list[dict[str, Any]]:
    """Sums with four answers, the first of which is right for every other one."""
    numbers = range(first, first + count)
    return [
        {"prompt": f"{n} + 12 =", "choices": [f" {n + 12 + d}" for d in (0, 1, 9, 10)], "answer": n % 2}
        for n in numbers
    ]
