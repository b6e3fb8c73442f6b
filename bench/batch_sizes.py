"""What another batch size does to a plan: quality and distinct experts as if so many sequences were decoded together.

    python bench/batch_sizes.py --model mini-olmoe --records reports/records/batch.jsonl

Methods at a share of the activations, half unless said otherwise, at each batch size. Alloc-D stands twice: its plan
for batches of 8, used at every size, and one whose profile was measured in batches of that size. Records that are there
already are kept, so an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from allocmoe import mini
from allocmoe.cli import script
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.quality import evaluate
from allocmoe.methods import allocate, needs, sweep
from allocmoe.plan import Plan
from allocmoe.profile.run import kept
from allocmoe.profile.sensitivity import Sensitivity

WINDOW, PROFILE_BATCH, MADE_FOR = 256, 8, 8
METHODS = ("uniform", "alloc-moe", "oea", "alloc-moe-refill")
SIZES = (8, 1, 4, 16, 32, 64)


def main(
    model: str = "mini-olmoe",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    size: Annotated[list[int], typer.Option(help="Sequences that decode together; repeat.")] = list(SIZES),  # noqa: B006
    held_out: Annotated[int, typer.Option(help="Windows that plans are measured on.")] = 64,
    calibration: Annotated[int, typer.Option(help="Windows that profiles read.")] = 64,
    share: Annotated[float, typer.Option(help="Of the model's own activations.")] = 0.5,
    own: Annotated[bool, typer.Option(help="Alloc-D's plans for each size too, which take a profile each.")] = True,
    seed: int = 0,
) -> None:
    """Append a record per method and batch size."""
    torch.set_num_threads(1)
    engine = HFEngine.load(mini.resolve(model))
    text = windows(engine.tokenizer, "mini-train", calibration, WINDOW)
    test = windows(engine.tokenizer, "mini-test", held_out, WINDOW)
    beside = to.with_name(f"{to.stem}.profiles")
    budget = round(share * engine.spec.original_budget)

    def profiled(quantities: list[str], batch: int) -> Sensitivity:
        path = beside / f"{engine.fingerprint}-{batch}.json"
        return kept(engine, text, PROFILE_BATCH, path, quantities=quantities, seed=seed, decode_batch=batch)

    known = profiled(needs([*METHODS, "alloc-d"]), MADE_FOR)
    plans = sweep(engine, known, (*METHODS, "alloc-d"), [budget], seed=seed)
    for batch in size:
        measure(engine, plans, test, to, batch, seed)
    for batch in size if own else []:
        mine = profiled(needs(["alloc-d"]), batch)
        plan = allocate("alloc-d", engine.spec, engine.fingerprint, budget, mine, seed=seed)
        measure(engine, [plan], test, to, batch, seed)
    print(json.dumps({"model": model, "budget": budget, "sizes": size, "records": str(to)}))


def measure(engine: HFEngine, plans: list[Plan], text: Windows, to: Path, batch: int, seed: int) -> None:
    """Quality and counts of plans as if `batch` windows were decoded side by side."""
    evaluate(engine, plans, text, to, text_batch=batch, seed=seed, passes="decode")


if __name__ == "__main__":
    script(main)
