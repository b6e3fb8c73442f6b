"""Alloc-T shares a layer's budget over a batch: what its size does, and which windows happen to share it.

A window keeps its place in the results, so the loss of each under different neighbours is compared with itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.plan import Plan

NAME = "batch"
METHODS = ("alloc-t", "alloc-moe")
SIZES = (1, 2, 4, 8, 16, 32)
ORDERS = 5
"""Ways to put the windows into batches of the setting's own size: as they are, then shuffled."""


def losses(setting: Setting, order: Tensor) -> list[float]:
    """Mean negative log-likelihood (nats) of every window, in the windows' own order, batched in another."""
    import torch

    from allocmoe.data.text import Windows
    from allocmoe.evaluate.perplexity import perplexity

    shuffled = Windows(setting.text.ids[order], setting.text.name)
    found = torch.tensor(perplexity(setting.engine, shuffled, setting.batch).nll, dtype=torch.float64)
    back: Tensor = torch.empty_like(found).scatter_(0, order, found)
    return list(back.tolist())


def order_of(count: int, number: int, seed: int) -> Tensor:
    """[count], a permutation of windows; number 0 leaves them as they are."""
    import torch

    if number == 0:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + number))


def _run(setting: Setting) -> list[Record]:
    settings = [(replace(setting, batch=size), 0) for size in SIZES]
    settings += [(setting, number) for number in range(ORDERS) if number or setting.batch not in SIZES]
    steps = [(one, number, plan) for one, number in settings for plan in one.plans(METHODS, [one.half])]
    found = []
    for one, number, plan in setting.bar(steps, NAME):

        def measure(one: Setting = one, number: int = number, plan: Plan = plan) -> dict[str, Any]:
            with one.engine.using(plan), one.engine.count() as spent:
                nll = losses(one, order_of(len(one.text.ids), number, one.seed))
            samples = {"nll": nll, "window_tokens": [one.text.ids.shape[1] - 1] * len(nll)}
            metrics = {"perplexity": math.exp(math.fsum(nll) / len(nll))}
            return {"metrics": metrics, "samples": samples, "spent": spent.summary()}

        found.append(one.once(one.record(NAME, plan, order=number), measure))
    return found


ANALYSIS = Analysis(NAME, "what else is in a batch, under Alloc-T", "section 3.3", _run, scored=False)
