"""A setting on a tiny model, and its routers' decisions as loops see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from allocmoe.analyses import Setting
from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.plan import Plan
from allocmoe.profile.run import profile
from tests.conftest import tiny
from tests.engines.loops import ORACLES, softmax

WINDOWS, LENGTH, BATCH = 6, 16, 2


def text(name: str = "held-out", seed: int = 0, count: int = WINDOWS) -> Windows:
    ids = torch.randint(0, 96, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return Windows(ids, name)


def setting(out: Path, family: str = "olmoe", **parts: Any) -> Setting:
    """Of a tiny model in float64, without tasks."""
    engine = tiny(family)
    values: dict[str, Any] = {
        "engine": engine, "text": text(), "batch": BATCH, "out": out, "calibrations": (text("usual", 1, 4),),
        "profiles": lambda t, names: profile(engine, t, BATCH, quantities=names, progress=False),
        "budgets": tuple(engine.spec.budgets()), "progress": False,
    }  # fmt: skip
    return Setting(**values | parts)


Kept = list[list[list[tuple[int, float]]]]
"""By layer and token, the experts that it keeps with their weights."""


def decisions(engine: HFEngine, plan: Plan, windows: Windows, batch: int) -> tuple[Kept, list[list[list[float]]]]:
    """What every token keeps in every layer, and the logits it was decided by, worked out by loops.

    The inputs of the routers are the model's own under the plan; what is kept of the logits is worked out by hand.
    """
    seen: list[list[torch.Tensor]] = [[] for _ in engine.routers]
    handles = [
        router.register_forward_hook(lambda _m, _a, output, layer=layer: seen[layer].append(output[0].clone()))
        for layer, router in enumerate(engine.routers)
    ]
    with engine.using(plan), torch.inference_mode():
        for ids in windows.batches(batch):
            engine.model(ids)
    for handle in handles:
        handle.remove()
    kept: Kept = []
    for layer, passes in enumerate(seen):
        kept.append([])
        for logits in passes:
            rows = {}
            for token, row in enumerate(logits.tolist()):
                shares = softmax(row)
                best = sorted(range(len(row)), key=lambda e: (-shares[e], e))[: engine.spec.top_k]
                rows[token] = [(shares[e], e) for e in best]
            chosen = ORACLES[plan.token_rule](rows, plan.numbers(layer), None)
            kept[layer] += [[(expert, weight) for weight, expert in chosen[token]] for token in rows]
    return kept, [[row for logits in passes for row in logits.tolist()] for passes in seen]
