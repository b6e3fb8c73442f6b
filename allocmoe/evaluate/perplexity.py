"""Perplexity over whole windows, streamed in fixed batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from allocmoe.data.text import Windows
from allocmoe.engines import Engine


@dataclass(frozen=True)
class Perplexity:
    """`nll` [n]: mean negative log-likelihood per predicted token of each window, nats."""

    nll: tuple[float, ...]
    predicted: int

    @property
    def value(self) -> float:
        """exp of the mean over all predicted tokens (all windows have the same length)."""
        return math.exp(math.fsum(self.nll) / len(self.nll))


def perplexity(engine: Engine, text: Windows, batch: int) -> Perplexity:
    """Perplexity of the engine's model as it is planned now.

    The batching is part of the result: Alloc-T shares a layer's budget over `batch` windows.
    """
    length = text.ids.shape[1]
    found = [nll / (length - 1) for ids in text.batches(batch) for nll in engine.nll(ids).tolist()]
    return Perplexity(tuple(found), len(found) * (length - 1))
