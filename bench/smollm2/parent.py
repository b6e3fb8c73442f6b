"""What the dense parent answers, on the items that the model made of it is asked by `allocmoe eval`.

    python -m bench.smollm2.parent out/smollm2/dense --task piqa --task hellaswag --items 300 --records asked.jsonl

Through stock lm-eval, as everywhere in the project. One record about "quality".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoTokenizer

from allocmoe import records
from allocmoe.cli import script
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.records import Record
from allocmoe.spec import fingerprint
from bench.smollm2 import fetch

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Dense:
    """As much of an engine as tasks ask for."""

    model: Any
    tokenizer: Any


def main(
    folder: Annotated[Path, typer.Argument(help="The dense parent, a checkpoint folder.")],
    task: Annotated[list[str], typer.Option(help="A data set, as of `allocmoe eval`; repeat.")],
    data_root: Annotated[Path | None, typer.Option(help="Local data of lm-eval's tasks; else the hub.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Items per data set, pinned.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Requests per batch.")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    to: Annotated[Path, typer.Option("--records", help="Records to append to.")] = Path("records.jsonl"),
    seed: int = 0,
) -> None:
    """Ask the dense parent, append a record."""
    if dtype not in DTYPES:
        raise AllocMoEError(f"unknown dtype {dtype}: expected one of {', '.join(DTYPES)}")
    model = fetch.load(folder, DTYPES[dtype])
    suite = TaskSuite(
        Dense(model, AutoTokenizer.from_pretrained(folder, local_files_only=True)), task, batch, data_root=data_root
    )
    found = suite.run(items, seed)
    setup = {"seed": seed, "engine": "transformers", "dtype": dtype, **suite.describe(items, seed)}
    details = {"architecture": model.config.architectures[0], "parameters": sum(p.numel() for p in model.parameters())}
    record = Record(
        "quality", folder.resolve().name, fingerprint(folder), None, None, None, setup,
        scores(found, suite.groups), samples={"tasks": found}, details={**details, "groups": suite.groups},
    )  # fmt: skip
    records.append(to, record)
    print(json.dumps(record.metrics))


if __name__ == "__main__":
    script(main)
