"""Is Algorithm 1's profile what an allocation should minimise? Other profiles, and a search, beside it.

    python bench/profiles.py --model mini-olmoe --records reports/records/profiles.jsonl

Algorithm 1 measures a layer while every deeper one is at top-1 and every shallower one at K. A plan never
works there. So the same allocation is made from other profiles of the same text: a layer at k with all others
at K, or with all others as `uniform` has them at that budget. And a search tries plans themselves: it moves
one expert from a layer to another and keeps what lowers the perplexity of the calibration text. All plans are
top-k, which leaves the token rule out. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from allocmoe import mini, records, stats
from allocmoe.allocation.alloc_l import NORMALISATIONS, alloc_l
from allocmoe.allocation.uniform import uniform
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.profile import algorithm1
from allocmoe.records import Record

WINDOW, BATCH = 256, 8


def main(
    model: str = "mini-olmoe",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    calibration: Annotated[int, typer.Option(help="Windows that profiles and search read.")] = 16,
    held_out: Annotated[int, typer.Option(help="Windows that plans are compared on.")] = 128,
    tries: Annotated[int, typer.Option(help="Moves that the search tries at each budget.")] = 100,
    seed: int = 0,
) -> None:
    """Allocate from every profile at the paper's budgets, compare on held-out text, append a record."""
    torch.set_num_threads(1)
    engine = HFEngine.load(mini.resolve(model))
    spec = engine.spec
    text = windows(engine.tokenizer, "mini-train", calibration, WINDOW)
    test = windows(engine.tokenizer, "mini-test", held_out, WINDOW)
    rng = np.random.default_rng(seed)
    chain, _ = algorithm1.fast(engine, text, BATCH)
    tables = {"algorithm 1": chain, "others at K": alone(engine, text, [spec.top_k] * spec.layers, "others at K")}
    metrics: dict[str, float] = {}
    nll: dict[str, list[float]] = {}
    layers: dict[str, list[int]] = {}
    for budget in spec.budgets():
        even = uniform((spec.layers, spec.top_k), budget).tolist()
        near = alone(engine, text, even, f"others at {budget}")
        tables[f"others at {budget}"] = near
        plans = {"uniform": even}
        for how in NORMALISATIONS:
            plans[f"algorithm 1, {how}"] = alloc_l(chain, budget, how, exact=True).tolist()
        plans["others at K"] = alloc_l(tables["others at K"], budget, "log", exact=True).tolist()
        plans["others at the budget"] = alloc_l(near, budget, "log", exact=True).tolist()
        start = min(plans.values(), key=lambda k: measured(engine, text, k)[0])
        plans["search"] = search(engine, text, start, tries, rng)
        for name, chosen in plans.items():
            at = f"{name}/{budget}"
            metrics[at], nll[at] = measured(engine, test, chosen)
            metrics[f"calibration/{at}"] = measured(engine, text, chosen)[0]
            layers[at] = [int(k) for k in chosen]
    record = Record(
        about="profile",
        model=engine.name,
        fingerprint=engine.fingerprint,
        method=None,
        budget=None,
        plan=None,
        setup={**text.describe(), "batch": BATCH, "tries": tries, "seed": seed, "held_out": test.describe()},
        metrics=metrics,
        samples={"nll": nll},
        details={"layers": layers, "tables": {name: table.tolist() for name, table in tables.items()}},
    )
    records.append(to, record)
    show(metrics, nll, spec.budgets())
    print(json.dumps(metrics))


def measured(engine: HFEngine, text: Windows, layers: list[int]) -> tuple[float, list[float]]:
    """Perplexity, and mean NLL of each window, with layer l at top-`layers[l]`."""
    for layer, k in enumerate(layers):
        engine.set_layer(layer, algorithm1.top_k_rule(engine, int(k)))
    found = perplexity(engine, text, BATCH)
    engine.revert()
    return found.value, list(found.nll)


def alone(engine: HFEngine, text: Windows, others: list[int], what: str) -> np.ndarray:
    """Perplexities [L, K] with layer l at k and all others as `others` has them."""
    table = np.empty((engine.spec.layers, engine.spec.top_k))
    base = measured(engine, text, others)[0]
    for layer, k in tqdm(list(np.ndindex(*table.shape)), desc=what, disable=None):
        mine = [*others[:layer], k + 1, *others[layer + 1 :]]
        table[layer, k] = base if mine == others else measured(engine, text, mine)[0]
    return table


def search(engine: HFEngine, text: Windows, start: list[int], tries: int, rng: np.random.Generator) -> list[int]:
    """From `start`, `tries` random moves of one expert between two layers; those that help are kept."""
    best, least = list(start), measured(engine, text, start)[0]
    for _ in tqdm(range(tries), desc="search", disable=None):
        takers = [layer for layer, k in enumerate(best) if k < engine.spec.top_k]
        givers = [layer for layer, k in enumerate(best) if k > 1]
        here, there = int(rng.choice(givers)), int(rng.choice(takers))
        if here == there:
            continue
        moved = list(best)
        moved[here], moved[there] = moved[here] - 1, moved[there] + 1
        now = measured(engine, text, moved)[0]
        if now < least:
            best, least = moved, now
    return best


def show(metrics: dict[str, float], nll: dict[str, list[float]], budgets: tuple[int, ...]) -> None:
    """Perplexity of each plan, and its ratio to uniform with a 95 % interval."""
    table = Table("plan from", *(str(b) for b in budgets))
    names = [at.rsplit("/", 1)[0] for at in nll if at.endswith(f"/{budgets[0]}")]
    for name in names:
        cells = []
        for budget in budgets:
            at = f"{name}/{budget}"
            ratio, low, high = stats.perplexity_ratio(nll[at], nll[f"uniform/{budget}"], [WINDOW - 1] * len(nll[at]))
            cells.append(f"{metrics[at]:.3f}  {ratio:.3f} ({low:.3f} to {high:.3f})")
        table.add_row(name, *cells)
    Console(width=170).print(table)


if __name__ == "__main__":
    typer.run(main)
