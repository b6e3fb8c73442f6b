"""Perplexity over whole windows, streamed in fixed batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.text import Windows

HEAD_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}  # of logits made at a time: what a cache, or a GPU, holds


@dataclass(frozen=True)
class Perplexity:
    """`nll` [n]: mean negative log-likelihood per predicted token of each window, nats."""

    nll: tuple[float, ...]
    predicted: int

    @property
    def value(self) -> float:
        """exp of the mean over all predicted tokens (all windows have the same length)."""
        return math.exp(math.fsum(self.nll) / len(self.nll))


def window_nll(head: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """Summed NLL [B] in float64 of each window, from last hidden states [B, T, H] and ids [B, T].

    Rows of logits are made in pieces: less memory, and on a CPU they stay in the cache.
    """
    states, targets = hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    rows = max(1, HEAD_BYTES.get(states.device.type, 1 << 30) // (4 * head.weight.shape[0]))
    losses = [
        F.cross_entropy(head(states[i : i + rows]).float(), targets[i : i + rows], reduction="none")
        for i in range(0, len(targets), rows)
    ]
    return torch.cat(losses).view(len(ids), -1).double().sum(1)


@torch.inference_mode()
def perplexity(engine: HFEngine, text: Windows, batch: int) -> Perplexity:
    """Perplexity of the engine's model as it is planned now.

    The batching is part of the result: Alloc-T shares a layer's budget over `batch` windows.
    """
    head, found = engine.model.get_output_embeddings(), []
    for ids in text.batches(batch):
        ids = ids.to(engine.model.device)
        found += (window_nll(head, engine.backbone(ids), ids) / (ids.shape[1] - 1)).tolist()
    return Perplexity(tuple(found), len(found) * (text.ids.shape[1] - 1))
