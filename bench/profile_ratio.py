"""How much faster the fast profiler is than Algorithm 1 as printed, on the embedded model.

    python bench/profile_ratio.py --records reports/records/profile-ratio.jsonl

Both run on the same text in alternation. The ratio of every round is kept; the last line of stdout
is one JSON document.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from allocmoe import mini, records
from allocmoe.cli import script
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.profile import algorithm1
from allocmoe.profile.run import as_record, profile


def main(
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    model: str = "mini-olmoe",
    count: Annotated[int, typer.Option("--windows")] = 8,
    batch: int = 8,
    rounds: int = 5,
) -> None:
    """Time both profilers `rounds` times in alternation and append a record."""
    engine = HFEngine.load(mini.resolve(model))
    text = windows(engine.tokenizer, "mini-train", count, 256)
    seconds: dict[str, list[float]] = {"naive": [], "fast": []}
    for number in range(rounds + 1):  # the first round warms up
        for name in ("naive", "fast") if number % 2 else ("fast", "naive"):
            start = time.perf_counter()
            table, evaluations = getattr(algorithm1, name)(engine, text, batch, progress=False)
            if number:
                seconds[name].append(time.perf_counter() - start)
            if name == "naive":
                slow, printed = table, evaluations
            else:
                quick = table
    ratios = [n / f for n, f in zip(seconds["naive"], seconds["fast"], strict=True)]
    apart = np.abs(quick / slow - 1)
    bound = suffix_share(engine, text, batch)
    metrics = {
        "naive_over_fast": statistics.median(ratios),
        "naive_over_fast_min": min(ratios),
        "naive_over_fast_max": max(ratios),
        "evaluations": float(printed),
        "cells_within_1e-6": float(np.mean(apart <= 1e-6)),
        "largest_relative_difference": float(apart.max()),
        **bound,
    }
    record = as_record(engine, profile(engine, text, batch, progress=False), metrics)
    record.samples.update({"naive_s": seconds["naive"], "fast_s": seconds["fast"]})
    records.append(to, record)
    print(json.dumps(metrics))


@torch.inference_mode()
def suffix_share(engine: HFEngine, text: object, batch: int, repeats: int = 5) -> dict[str, float]:
    """What bounds the ratio: time of a whole pass at top-K over one at top-1. The suffix at top-1,
    attention and LM head included, is the part of the work that no branch can share."""
    times: dict[int, list[float]] = {engine.spec.top_k: [], 1: []}
    for _ in range(repeats):
        for k, found in times.items():
            for layer in range(engine.spec.layers):
                engine.set_layer(layer, algorithm1.top_k_rule(engine, k))
            start = time.perf_counter()
            perplexity(engine, text, batch)  # type: ignore[arg-type]
            found.append(time.perf_counter() - start)
    engine.revert()
    return {"pass_top_k_over_top_1": statistics.median(times[engine.spec.top_k]) / statistics.median(times[1])}


if __name__ == "__main__":
    script(main)
