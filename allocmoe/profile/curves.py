"""Curves of token rules with one threshold for all layers, measured while all layers obey it.

The thresholds are quantiles of what the rule compares with them, pooled over tokens and layers of the unchanged model:
so they lie about evenly between one expert a token and all K. What layers would keep on the unchanged model is then
known at any threshold, without a pass; what they keep once all obey is measured at a few, and the difference, which is
small and smooth, is interpolated between those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.engines.passes import Rule
from allocmoe.engines.planned import PlannedLayer, sort_candidates
from allocmoe.routing import TokenRule

TOKENS = 4096
"""Of calibration text per threshold, and of one forward pass."""
MEASURED = (0, 0.02, *(i / 10 for i in range(1, 10)), 0.98, 1)
"""Quantiles at which the model runs."""
LEVELS = (*(i / 100 for i in (0, 0.3, 0.6)), *(i / 80 for i in range(1, 80)), *(i / 100 for i in (99.4, 99.7, 100)))
"""Quantiles of the curve."""

Statistic = Callable[[Tensor, Mapping[str, Any]], Tensor]
"""Sorted scores [T, K] and a layer's numbers in, what is compared with the threshold [T, K - 1] out."""


def measure(
    engine: HFEngine,
    text: Windows,
    batch: int,
    rule: TokenRule,
    statistic: Statistic,
    ends: tuple[float, float],
    numbers: Sequence[Mapping[str, Any]] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """The curve of a rule that has a "threshold" per plan and decides for each token alone.

    Args:
        engine, text, batch: memory follows the batch, or TOKENS.
        rule, statistic: the rule, and what it compares with its threshold.
        ends: thresholds under which every token keeps one expert, and all K.
        numbers: the rule's other parameters, by layer.

    Returns:
        {"threshold": [G], "kept": [G][L]}, from one expert a token to all; the ends are so by definition.
    """
    own = numbers or [{}] * engine.spec.layers
    layers, top_k = engine.spec.layers, engine.spec.top_k
    inner, between = np.empty(0), np.empty((0, layers))
    if top_k > 1:
        unchanged = _unchanged(engine, text, batch, statistic, own)
        rising = ends[0] < ends[1]
        at, inner = (np.quantile(unchanged, levels) for levels in (MEASURED, LEVELS))
        moved = _kept(engine, text, batch, rule, own, at.tolist(), progress) - _would_keep(unchanged, at, top_k, rising)
        smooth = np.stack([np.interp(LEVELS, MEASURED, column) for column in moved.T], axis=1)
        between = (_would_keep(unchanged, inner, top_k, rising) + smooth).clip(1, top_k)
        if not rising:
            inner, between = inner[::-1], between[::-1]
    kept = [[1.0] * layers, *between.round(6).tolist(), [float(top_k)] * layers]
    return {"threshold": [ends[0], *inner.tolist(), ends[1]], "kept": kept}


def _would_keep(statistics: np.ndarray, thresholds: np.ndarray, top_k: int, rising: bool) -> np.ndarray:
    """[G, L]: what layers keep at thresholds [G], of statistics [L, T (K - 1)], sorted: 1 and each that obeys."""
    share = np.stack([row.searchsorted(thresholds, side="right") / len(row) for row in statistics], axis=1)
    return 1 + (top_k - 1) * (share if rising else 1 - share)


@torch.inference_mode()
def _unchanged(
    engine: HFEngine, text: Windows, batch: int, statistic: Statistic, own: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """What the unchanged model's layers compare with the threshold: [L, T (K - 1)], sorted."""
    seen: list[list[np.ndarray]] = [[] for _ in own]

    def noting(layer: int) -> Rule:
        def note(weights: Tensor, index: Tensor, _valid: Tensor | None, _logits: Tensor) -> tuple[Tensor, Tensor]:
            scores = sort_candidates(weights, index)[0].float()
            seen[layer].append(statistic(scores, own[layer]).flatten().double().cpu().numpy())
            return weights, index

        return note

    with engine.using(None):
        for layer in range(engine.spec.layers):
            engine.set_layer(layer, noting(layer))
        for ids in text.batches(batch):
            engine.backbone(ids)
    return np.sort([np.concatenate(parts) for parts in seen], axis=1)


@torch.inference_mode()
def _kept(
    engine: HFEngine,
    text: Windows,
    batch: int,
    rule: TokenRule,
    own: Sequence[Mapping[str, Any]],
    thresholds: Sequence[float],
    progress: bool,
) -> np.ndarray:
    """What layers keep while all obey a threshold: [G, L].

    A row of a batch is a window under one threshold: windows of several go through together.
    """
    spec, (count, length) = engine.spec, text.ids.shape
    device = engine.model.device
    sums = torch.zeros(spec.layers, len(thresholds), dtype=torch.long, device=device)
    size = max(batch, TOKENS // length)
    which = torch.arange(len(thresholds)).repeat_interleave(count).split(size)
    limits = torch.tensor(thresholds, dtype=torch.float32)

    def obeying(layer: int, number: Tensor) -> Rule:
        limit = limits[number].repeat_interleave(length)[:, None].to(device)
        planned = PlannedLayer(
            rule, {"k": float(spec.top_k), **own[layer], "threshold": limit}, spec.top_k, spec.experts,
        )  # fmt: skip

        def obey(weights: Tensor, index: Tensor, valid: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor]:
            weights, index = planned(weights, index, valid, logits)
            spent = (index != spec.experts).view(len(number), -1).sum(1)
            sums[layer].index_add_(0, number.to(device), spent)
            return weights, index

        return obey

    rows = tqdm(which, desc=f"curve of {rule.name}", unit="batch", delay=2, disable=not progress)
    with engine.using(None):
        for number, ids in zip(rows, text.ids.repeat(len(thresholds), 1).split(size), strict=True):
            for layer in range(spec.layers):
                engine.set_layer(layer, obeying(layer, number))
            engine.backbone(ids)
    return (sums.double() / (count * length)).T.cpu().numpy()
