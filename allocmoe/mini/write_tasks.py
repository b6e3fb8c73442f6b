"""Write the embedded task sets as lm-eval tasks: one YAML and two JSON Lines files each.

    python -m allocmoe.mini.write_tasks

The files are committed; a test compares them with what the generators give.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from allocmoe.mini.items import TASKS, Item, held_out, sample

FOLDER = Path(__file__).parent / "tasks"
TEST_ITEMS, TRAIN_ITEMS = 500, 32

YAML = """\
task: {task}
tag: mini_{group}
dataset_path: json
dataset_name: null
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


def rows(items: list[Item]) -> str:
    """Items as JSON Lines, numbered: `id` is what records pin."""
    lines = [
        json.dumps({"id": i, "prompt": x.prompt, "choices": list(x.choices), "answer": x.answer})
        for i, x in enumerate(items)
    ]
    return "\n".join(lines) + "\n"


def contents() -> dict[str, str]:
    """File name -> content, for every file of the folder."""
    found = {}
    for name, task in TASKS.items():
        found[f"{name}.yaml"] = YAML.format(task=name, group=task.group)
        found[f"{name}.test.jsonl"] = rows(held_out(name, TEST_ITEMS))
        found[f"{name}.train.jsonl"] = rows(list(islice(sample(name, "train", 0), TRAIN_ITEMS)))
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in contents().items():
        (FOLDER / name).write_text(content, "utf-8")
    print(f"{len(contents())} files in {FOLDER.name}/")
