"""What a profile costs and what an allocation from it loses: Algorithm 1, KL by whole passes, one pass of gradients.

    python bench/profiles.py --model mini-olmoe --records reports/records/profiles.jsonl

Every profile is of the same text and gives k_l for the same rule: Alloc-T by contributions, at each budget. Costs are
CPU seconds of one process, so that what else the machine does hardly matters; `over` is how many times as long
Algorithm 1 takes. What a plan loses is measured on held-out text. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from allocmoe import mini, records
from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.one_pass import by_halves
from allocmoe.cli import script
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine
from allocmoe.engines.planned import PlannedLayer
from allocmoe.evaluate.quality import Measurer, fill
from allocmoe.methods import allocate
from allocmoe.plan import Plan
from allocmoe.profile import algorithm1
from allocmoe.profile.quantities import QUANTITIES, Setting
from allocmoe.profile.run import profile
from allocmoe.records import Record

WINDOW, BATCH = 256, 8
FEW = (512, 1024, 2048, 4096)
"""Tokens that the one pass reads; the last is what it reads of any text."""
Layers = Callable[[int], Any]
"""Of a budget, k_l [L]."""


def main(
    model: str = "mini-olmoe",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    calibration: Annotated[int, typer.Option(help="Windows that profiles read.")] = 32,
    held_out: Annotated[int, typer.Option(help="Windows that plans are compared on.")] = 64,
    seed: int = 0,
) -> None:
    """Allocate from every profile at the paper's budgets, compare on held-out text, append a record."""
    torch.set_num_threads(1)
    engine = HFEngine.load(mini.resolve(model))
    text = windows(engine.tokenizer, "mini-train", calibration, WINDOW)
    test = windows(engine.tokenizer, "mini-test", held_out, WINDOW)
    known = profile(engine, text, BATCH, quantities=["norms", "rescale", "curvature"], seed=seed, progress=True)
    base = {b: allocate("alloc-c", engine.spec, engine.fingerprint, b, known) for b in engine.spec.budgets()}
    setting = Setting(engine, text, BATCH, seed=seed, known=known.quantities, progress=True)
    seconds: dict[str, float] = {}
    chosen: dict[str, dict[int, list[float]]] = {}

    def tried(name: str, make: Callable[[], Layers]) -> None:
        started = time.process_time()
        layers = make()
        chosen[name] = {budget: [float(k) for k in layers(budget)] for budget in base}
        seconds[name] = time.process_time() - started

    tried("algorithm 1", lambda: chain(engine, text))
    for others, at in (("K", engine.spec.top_k), ("half", engine.spec.top_k / 2)):
        tried(f"KL, others at {others}", lambda at=at: alone(engine, text, known.quantities["norms"], at))  # type: ignore[misc]
    for tokens in FEW:
        tried(f"one pass, {tokens} tokens", lambda n=tokens: one_pass(setting, n))  # type: ignore[misc]
    tried("algorithm 1 and one pass", lambda: both(engine, text, setting))
    tried("the mean", lambda: lambda budget: [budget / engine.spec.layers] * engine.spec.layers)
    plans = {
        (name, b): replace(base[b], layers=tuple(ks), origin={}) for name, by in chosen.items() for b, ks in by.items()
    }
    found = measured(engine, test, list(plans.values()), to.with_suffix(".plans.jsonl"), seed)
    metrics = {f"seconds/{name}": value for name, value in seconds.items()}
    metrics |= {f"over/{name}": seconds["algorithm 1"] / value for name, value in seconds.items()}
    samples: dict[str, Any] = {"window_tokens": [WINDOW - 1] * held_out}
    for (name, b), plan in plans.items():
        for metric in ("kl", "perplexity"):
            metrics[f"{metric}/{name}/{b}"] = found[plan.digest].metrics[metric]
        samples[f"kl/{name}/{b}"] = found[plan.digest].samples["kl"]
    record = Record(
        "analysis", engine.name, engine.fingerprint, None, None, None,
        {**text.describe(), "batch": BATCH, "seed": seed, "held_out": test.describe(),
            "analysis": {"name": "profiles"}, "compared": list(chosen),
        },
        metrics, samples=samples, details={"layers": {f"{name}/{b}": list(p.layers) for (name, b), p in plans.items()}},
    )  # fmt: skip
    records.append(to, record)
    show(metrics, chosen)
    print(json.dumps(metrics))


def chain(engine: HFEngine, text: Windows) -> Layers:
    """Algorithm 1, and Alloc-L's programme."""
    table, _ = algorithm1.fast(engine, text, BATCH)
    return lambda budget: alloc_l(table, budget, "ratio", exact=True)


def both(engine: HFEngine, text: Windows, setting: Setting) -> Layers:
    """The two added, in nats a token: log perplexities of Algorithm 1's rows over their ends, and the one pass's KL."""
    table, _ = algorithm1.fast(engine, text, BATCH)
    tables, _ = QUANTITIES["curvature"].measure(setting)
    whole = np.array(tables["alloc_t by contribution"])[::2].T
    return lambda budget: alloc_l(np.log(table / table[:, -1:]) + whole, budget, "raw", exact=True)


def one_pass(setting: Setting, tokens: int) -> Layers:
    """The curvature on so much of the text."""
    some = replace(setting, text=setting.few(tokens))
    tables, _ = QUANTITIES["curvature"].measure(some)
    return lambda budget: by_halves(np.array(tables["alloc_t by contribution"]), budget)


def alone(engine: HFEngine, text: Windows, norms: Sequence[Sequence[float]], others: float) -> Layers:
    """Mean KL divergence [L, K] with one layer at a mean of k under the rule, all others at another; a pass each."""
    spec, batches = engine.spec, text.batches(BATCH)
    table = np.zeros((spec.layers, spec.top_k))
    rule = allocate("alloc-t", spec, engine.fingerprint, spec.layers).rule
    usual = [engine.reference(ids) for ids in batches]

    def limited(layer: int, k: float) -> None:
        numbers = {"k": k, "k_base": 1, "norms": torch.tensor(norms[layer])}
        engine.set_layer(layer, PlannedLayer(rule, numbers, spec.top_k, spec.experts))

    for layer in range(spec.layers):
        limited(layer, others)
    for layer, k in tqdm(list(np.ndindex(spec.layers, spec.top_k)), desc="KL of layers", disable=None):
        limited(layer, k + 1.0)
        found = [engine.scores(ids, reference).kl for ids, reference in zip(batches, usual, strict=True)]
        table[layer, k] = float(torch.cat(found).mean())
        if k + 1 == spec.top_k:
            limited(layer, others)
    for layer in range(spec.layers):
        engine.set_layer(layer, None)
    return lambda budget: alloc_l(table, budget, "raw", exact=True)


def measured(engine: HFEngine, test: Windows, plans: Sequence[Plan], to: Path, seed: int) -> dict[str, Record]:
    """Quality on held-out text by digest; what the file holds is not measured again."""
    measurer = Measurer(engine, test, text_batch=BATCH, suite=None, items=0, seed=seed)
    distinct = list({plan.digest: plan for plan in plans}.values())
    return {str(r.plan): r for r in fill(measurer, distinct, to, progress=True)}


def show(metrics: dict[str, float], chosen: dict[str, dict[int, list[float]]]) -> None:
    """KL divergence of each plan, and how many times as long Algorithm 1 takes."""
    table = Table("layers from", "Algorithm 1 takes", *(str(b) for b in next(iter(chosen.values()))))
    for name, by in chosen.items():
        table.add_row(name, f"{metrics[f'over/{name}']:.1f}x", *(f"{metrics[f'kl/{name}/{b}']:.4f}" for b in by))
    Console(width=140).print(table)


if __name__ == "__main__":
    script(main)
