"""Is a rescale of every channel worth more than one of a layer? Alloc-C without, with one factor, and with a vector.

    python bench/channels.py --model mini-olmoe --records reports/records/channels.jsonl

A layer's factor is `<y_full, y_kept> / ||y_kept||^2`, a channel's the same over that channel alone, both of the same
calibration text, as the quantity `rescale` has it. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from allocmoe import mini, records
from allocmoe.cli import script
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.quality import TEXT, Measurer
from allocmoe.methods import allocate, needs
from allocmoe.plan import Plan
from allocmoe.profile.algorithm1 import block_of, each_output
from allocmoe.profile.quantities.rescale import TOKENS
from allocmoe.profile.run import profile
from allocmoe.records import Record
from allocmoe.routing import Candidates
from allocmoe.routing.steps import in_order

WINDOW, BATCH, METHOD = 256, 8, "alloc-c"


def main(
    model: str = "mini-olmoe",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    calibration: Annotated[int, typer.Option(help="Windows that profiles read.")] = 32,
    held_out: Annotated[int, typer.Option(help="Windows that plans are compared on.")] = 64,
    seed: int = 0,
) -> None:
    """Measure the three at the paper's budgets on held-out text, append a record."""
    torch.set_num_threads(1)
    engine = HFEngine.load(mini.resolve(model))
    text = windows(engine.tokenizer, "mini-train", calibration, WINDOW)
    test = windows(engine.tokenizer, "mini-test", held_out, WINDOW)
    known = profile(engine, text, BATCH, quantities=needs([METHOD]), seed=seed, progress=True)
    measurer = Measurer(engine, test, text_batch=BATCH, suite=None, items=0, seed=seed)
    budgets, found = engine.spec.budgets(), {}
    for b in budgets:
        scaled = allocate(METHOD, engine.spec, engine.fingerprint, b, known)
        plain = replace(scaled, scale=())
        found[f"none/{b}"] = measurer.measure(plain, TEXT)
        found[f"layer/{b}"] = measurer.measure(scaled, TEXT)
        # the measurer has its reference from the plans before: what is hooked now is the plan's model alone
        vectors = by_channel(engine, plain, text.ids[: TOKENS // WINDOW])
        hooks = [multiplied(block_of(engine, layer), vector) for layer, vector in enumerate(vectors)]
        found[f"channel/{b}"] = measurer.measure(plain, TEXT)
        for hook in hooks:
            hook.remove()
    metrics = {f"{m}/{name}": r.metrics[m] for name, r in found.items() for m in ("kl", "perplexity")}
    samples = {"window_tokens": [WINDOW - 1] * held_out} | {f"kl/{name}": r.samples["kl"] for name, r in found.items()}
    setup = {**text.describe(), "batch": BATCH, "seed": seed, "held_out": test.describe(),
             "analysis": {"name": "channels"}}  # fmt: skip
    records.append(to, Record(
        "analysis", engine.name, engine.fingerprint, METHOD, None, None, setup, metrics, samples=samples,
    ))  # fmt: skip
    table = Table("rescale", *map(str, budgets))
    for kind in ("none", "layer", "channel"):
        table.add_row(kind, *(f"{metrics[f'kl/{kind}/{b}']:.4f}" for b in budgets))
    Console(width=100).print(table)
    print(json.dumps(metrics))


def multiplied(block: Any, vector: Tensor) -> Any:
    """The routed experts' sum [T, H] of a block times a vector [H], until the hook that is returned is removed."""
    return block.experts.register_forward_hook(lambda _module, _args, output: output * vector.to(output.dtype))


@torch.inference_mode()
def by_channel(engine: HFEngine, plan: Plan, ids: Tensor) -> list[Tensor]:
    """Of every layer, the factors [H] that bring what a plan keeps closest to the full output of the unchanged model.

    Args:
        plan: without scale.
        ids: [windows, length], one batch.
    """
    found: list[Tensor] = [torch.empty(0)] * len(plan.layers)

    def fitting(layer: int) -> Any:
        block, numbers = block_of(engine, layer), plan.numbers(layer)

        def hook(_module: Any, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
            x, (_, weights, index) = args[0].flatten(0, -2), output
            worth, place = in_order(weights, index, torch.tensor(numbers["norms"]))
            weights, index = weights.gather(-1, place), index.gather(-1, place)
            chosen, _, keep = plan.rule.select(Candidates(weights, index, worth=worth), numbers)
            each = each_output(block, x, weights, index).double()
            first = each[:, : chosen.shape[1]]
            full, kept = each.sum(1), (first if keep is None else first * keep[:, :, None]).sum(1)
            size = kept.square().sum(0)
            found[layer] = torch.where(size > 0, (full * kept).sum(0) / size, 1.0).float()

        return hook

    with engine.using(None):
        hooks = [router.register_forward_hook(fitting(layer)) for layer, router in enumerate(engine.routers)]
        try:
            engine.backbone(ids)
        finally:
            for hook in hooks:
                hook.remove()
    return found


if __name__ == "__main__":
    script(main)
