"""How far strangers in the same batch move a request's predictions, under rules that share a budget and under others.

A victim's window is run beside ordinary text, and beside windows that are chosen to win, or to leave, as much as they
can of a budget that is shared: those whose candidates behind the first weigh the most, and the least. What is told
is the KL divergence between the victim's predictions in the two batches.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.engines.hf import HFEngine
    from allocmoe.engines.passes import Rule
    from allocmoe.plan import Plan

NAME = "neighbours"
METHODS = ("uniform", "alloc-t", "alloc-moe", "alloc-moe-causal", "alloc-c", "alloc-c-causal")
KINDS = {"flat": "windows of the flattest routing", "peaked": "windows of the most peaked routing"}
"""Who shares the batch instead of ordinary text."""
VICTIMS, POOL = 16, 32
"""Windows that are looked at, at most; windows of random tokens, and as many of one token over and over, to choose
from."""


def appetite(engine: HFEngine, ids: Tensor) -> Tensor:
    """What the candidates behind each token's first weigh, mean over tokens and layers of the unchanged model: [B] of
    windows [B, T]."""
    import torch

    sums = torch.zeros(len(ids), dtype=torch.float64)

    def noting(weights: Tensor, index: Tensor, _valid: Any, _logits: Tensor) -> tuple[Tensor, Tensor]:
        behind = weights.double().sum(-1) - weights.double().max(-1).values
        sums.add_(behind.view(len(ids), -1).mean(1).cpu() / engine.spec.layers)
        return weights, index

    rule: Rule = noting
    with torch.inference_mode(), engine.using(None):
        for layer in range(engine.spec.layers):
            engine.set_layer(layer, rule)
        engine.backbone(ids)
    return sums


def pool(engine: HFEngine, length: int, seed: int) -> Tensor:
    """Windows [2 * POOL, length] that a stranger may send."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(engine.vocabulary, (POOL, length + 1), generator=generator)
    return torch.cat([words[:, 1:], words[:, :1].expand(-1, length)])


def adversaries(engine: HFEngine, length: int, count: int, seed: int) -> dict[str, Tensor]:
    """Kind -> windows [count, length], the best of the pool at it."""
    import torch

    offered = pool(engine, length, seed)
    order = torch.cat([appetite(engine, ids) for ids in offered.split(16)]).argsort(descending=True)
    return {"flat": offered[order[:count]], "peaked": offered[order[-count:]]}


def moved(engine: HFEngine, victims: Tensor, usual: Tensor, others: Tensor) -> tuple[list[float], list[float], float]:
    """Of every victim [n, T], beside the windows `others` instead of the `usual` ones: mean and largest KL divergence
    over its positions, in nats; and the share of positions, over all, whose most likely token is another one."""
    import torch

    from allocmoe.engines.head import window_scores

    means, most, flips = [], [], 0.0
    with torch.inference_mode():
        for row in victims:
            first, second = (engine.backbone(torch.cat([row[None], beside]))[:1] for beside in (usual, others))
            head = engine.model.get_output_embeddings()
            found = window_scores(head, second, first, row[None].to(first.device))
            means.append(float(found.kl.mean()))
            most.append(float(found.kl.max()))
            flips += float(found.flips.double().mean()) / len(victims)
    return means, most, flips


def _run(setting: Setting) -> list[Record]:
    count = setting.batch - 1
    if count < 1:
        raise AllocMoEError("the analysis neighbours needs a batch of at least 2 windows: one has no neighbours")
    if count > 2 * POOL or count >= len(setting.text.ids):
        most = min(2 * POOL, len(setting.text.ids) - 1) + 1
        raise AllocMoEError(
            f"the analysis neighbours has no neighbours for a batch of {setting.batch}: take {most} at most"
        )
    victims, usual = setting.text.ids[:-count][:VICTIMS], setting.text.ids[-count:]
    chosen: dict[str, Tensor] = {}

    def measure(plan: Plan, kind: str) -> dict[str, Any]:
        engine = setting.engine
        chosen.update(chosen or adversaries(engine, victims.shape[1], count, setting.seed))
        with engine.using(plan):
            means, most, flips = moved(engine, victims, usual, chosen[kind])
        metrics = {"kl": sum(means) / len(means), "kl_most": max(most), "flips": flips}
        return {"metrics": metrics, "samples": {"kl": means, "window_tokens": [victims.shape[1] - 1] * len(means)}}

    steps = [(plan, kind) for plan in setting.plans(METHODS, [setting.half]) for kind in KINDS]
    return [
        setting.once(setting.record(NAME, plan, beside=kind, victims=len(victims)), partial(measure, plan, kind))
        for plan, kind in setting.bar(steps, NAME)
    ]


ANALYSIS = Analysis(NAME, "how far strangers in the batch move an answer", "beyond the paper", _run, scored=False)
