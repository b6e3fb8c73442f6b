"""Does a plan still hold on a copy of its model with rounded or pruned weights, or is a new profile worth it?

    python bench/copies.py --model mini-olmoe --records reports/records/copies.jsonl

Copies have expert weights rounded to 8 or 4 bits (groups of 16 along the input, one scale each), or three quarters of
the experts: those with the largest saliency, as REAP prunes. On each copy, at half and three quarters of the
activations, plans that were made for the original stand beside plans from a profile of the copy; a loss is the KL
divergence from the copy as it is. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from allocmoe import mini, records
from allocmoe.cli import script
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.quality import TEXT, Measurer
from allocmoe.methods import allocate, needs
from allocmoe.plan import Plan
from allocmoe.profile.run import profile
from allocmoe.records import Record

WINDOW, BATCH, GROUP = 256, 8, 16
METHODS = ("uniform", "alloc-moe", "alloc-c")
KEPT = 0.75
"""Of the experts of a pruned copy."""
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


def main(
    model: str = "mini-olmoe",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    calibration: Annotated[int, typer.Option(help="Windows that profiles read.")] = 32,
    held_out: Annotated[int, typer.Option(help="Windows that plans are compared on.")] = 64,
    seed: int = 0,
) -> None:
    """Make the copies, compare plans on each, append a record a copy."""
    torch.set_num_threads(1)
    original = HFEngine.load(mini.resolve(model))
    text = windows(original.tokenizer, "mini-train", calibration, WINDOW)
    test = windows(original.tokenizer, "mini-test", held_out, WINDOW)
    spec = original.spec
    known = profile(original, text, BATCH, quantities=[*needs(METHODS), "saliency"], seed=seed, progress=True)
    budgets = (3 * spec.original_budget // 4, spec.original_budget // 2)
    plans = [allocate(m, spec, original.fingerprint, b, known) for m in METHODS for b in budgets]
    left = best_experts(known.quantity("saliency"), round(KEPT * spec.experts))
    everyone = [list(range(spec.experts))] * spec.layers
    table = Table("copy", "method", "budget", "KL, the original's plan", "KL, a plan of its own")
    whole: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, experts, bits in (("8 bits", everyone, 8), ("4 bits", everyone, 4), ("pruned", left, 0)):
            copy = HFEngine.load(copied(original, experts, bits, Path(folder) / name.replace(" ", "-")))
            own = profile(copy, text, BATCH, quantities=needs(METHODS), seed=seed, progress=True)
            found = compared(copy, [moved(p, copy, experts) for p in plans], own, test, seed)
            whole[name] = {n: r.metrics["kl"] for n, r in found.items()}
            for plan in (f"{m}/{b}" for m in METHODS[1:] for b in budgets):
                table.add_row(
                    name, *plan.split("/"), *(f"{whole[name][f'{how}/{plan}']:.4f}" for how in ("old", "new"))
                )
            records.append(to, Record(
                "analysis", original.name, original.fingerprint, None, None, None,
                {**text.describe(), "batch": BATCH, "seed": seed, "held_out": test.describe(),
                    "analysis": {"name": "copies"}, "copy": name,
                },
                {f"{metric}/{n}": r.metrics[metric] for n, r in found.items() for metric in ("kl", "perplexity")},
                samples={f"kl/{n}": r.samples["kl"] for n, r in found.items()}
                | {"window_tokens": [WINDOW - 1] * held_out},
            ))  # fmt: skip
    Console(width=120).print(table)
    print(json.dumps(whole))


def best_experts(saliency: Any, count: int) -> list[list[int]]:
    """Ids of the `count` experts of largest saliency of each layer, upwards."""
    return [sorted(np.argsort([-value for value in row], kind="stable")[:count].tolist()) for row in saliency]


def rounded(weights: Tensor, bits: int) -> Tensor:
    """Weights [..., n] as so many bits would hold them, a scale for GROUP of them in a row."""
    grouped = weights.reshape(-1, GROUP)
    most = 2 ** (bits - 1) - 1
    scale = (grouped.abs().amax(1) / most).clamp(min=1e-12)
    zero = torch.zeros(len(grouped), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(grouped, scale, zero, 0, -most, most).view_as(weights)


def copied(engine: HFEngine, experts: list[list[int]], bits: int, folder: Path) -> Path:
    """A checkpoint with some of the experts of each layer, their weights rounded; 0 bits: as they are."""
    config = AutoConfig.from_pretrained(engine.model.config.name_or_path)
    setattr(config, "n_routed_experts" if hasattr(config, "n_routed_experts") else "num_experts", len(experts[0]))
    model = AutoModelForCausalLM.from_config(config)
    wanted = model.state_dict()
    tensors, layers = dict(engine.model.state_dict()), iter(experts)
    for name in [n for n in tensors if n.endswith("mlp.gate.weight")]:
        stem, keep = name.removesuffix("gate.weight"), torch.tensor(next(layers))
        tensors[name] = tensors[name][keep]
        for part in EXPERTS:
            chosen = tensors[stem + part][keep]
            tensors[stem + part] = rounded(chosen, bits) if bits else chosen
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in wanted.items()}
    model.load_state_dict(tensors)
    model.save_pretrained(folder)
    engine.tokenizer.save_pretrained(folder)
    return folder


def moved(plan: Plan, copy: HFEngine, experts: list[list[int]]) -> Plan:
    """A plan of the original on a copy that has some of its experts."""
    norms = tuple(tuple(row[e] for e in keep) for row, keep in zip(plan.norms, experts, strict=bool(plan.norms)))
    return replace(plan, fingerprint=copy.fingerprint, experts=copy.spec.experts, norms=norms)


def compared(copy: HFEngine, old: list[Plan], own: Any, test: Windows, seed: int) -> dict[str, Record]:
    """Quality beside the copy as it is, under plans of the original and of the copy: `old/method/budget` and `new/`."""
    measurer = Measurer(copy, test, text_batch=BATCH, suite=None, items=0, seed=seed)
    new = [allocate(p.method, copy.spec, copy.fingerprint, p.budget, own) for p in old]
    named = {f"{how}/{p.method}/{p.budget}": p for how, plans in (("old", old), ("new", new)) for p in plans}
    return {name: measurer.measure(plan, TEXT) for name, plan in named.items()}


if __name__ == "__main__":
    script(main)
