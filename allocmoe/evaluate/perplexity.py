"""Perplexity over whole windows, streamed in fixed batches; and how far a plan's predictions are from the model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allocmoe.data.text import Windows
from allocmoe.engines import Engine

REFERENCE_BYTES = 1 << 30  # of the unchanged model's states kept in memory; a longer text has them made anew
BINS = 8


@dataclass(frozen=True)
class Distance:
    """How far a plan's predictions are from the unchanged model's, at every predicted position of n windows.

    Attributes:
        kl: [n, T - 1] float64, KL(p_original || p_plan) over the full vocabulary, nats.
        flips: bool [n, T - 1], whether the most likely token is another one.
    """

    kl: Tensor
    flips: Tensor

    def per_window(self) -> dict[str, list[float]]:
        """Means of each window: [n] nats, and [n] shares."""
        return {"kl": self.kl.mean(1).tolist(), "flips": self.flips.double().mean(1).tolist()}

    def means(self) -> dict[str, float]:
        """Of all positions."""
        return {"kl": float(self.kl.mean()), "flips": float(self.flips.double().mean())}

    def by_position(self) -> dict[str, list[float]]:
        """Means over parts of the window, as equal as can be, with the first token that each predicts, from 0."""
        parts = torch.arange(self.kl.shape[1]).tensor_split(min(BINS, self.kl.shape[1]))
        found = [Distance(self.kl[:, p], self.flips[:, p]).means() for p in parts]
        return {"first": [int(p[0]) + 1 for p in parts], **{name: [f[name] for f in found] for name in ("kl", "flips")}}

    def by_kind(self, kinds: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Means over the predicted tokens of each kind of text, and how many these are; see `Windows.kinds`."""
        found = {}
        for name, tokens in kinds.items():
            mine = tokens[:, 1:]
            if count := int(mine.sum()):
                found[name] = {"tokens": count, **Distance(self.kl[mine], self.flips[mine]).means()}
        return found


@dataclass(frozen=True)
class Perplexity:
    """`nll` [n]: mean negative log-likelihood per predicted token of each window, nats; the distance if measured."""

    nll: tuple[float, ...]
    predicted: int
    distance: Distance | None = None

    @property
    def value(self) -> float:
        """exp of the mean over all predicted tokens (all windows have the same length)."""
        return math.exp(math.fsum(self.nll) / len(self.nll))


class Reference:
    """The unchanged model on a text: its last hidden states, batch by batch, made when first asked for.

    They are kept as far as REFERENCE_BYTES go and made anew for every plan beyond that, so that plans cost one pass of
    the unchanged model together, or one each. Logits would take V numbers a token, states take H.
    """

    def __init__(self, engine: Any, text: Windows, batch: int) -> None:
        self.engine, self.batches = engine, text.batches(batch)
        self._kept: dict[int, Tensor] = {}
        self._free = REFERENCE_BYTES

    def states(self, number: int) -> Tensor:
        """Last hidden states [B, T, H] of a batch."""
        if number in self._kept:
            return self._kept[number]
        made: Tensor = self.engine.reference(self.batches[number])
        size = made.numel() * made.element_size()
        if size <= self._free:
            self._free -= size
            self._kept[number] = made.cpu()
        return made


def perplexity(engine: Engine, text: Windows, batch: int, reference: Reference | None = None) -> Perplexity:
    """Perplexity of the engine's model as it is planned now, and with a reference the distance from it.

    The batching is part of the result: Alloc-T shares a layer's budget over `batch` windows. The losses are the same,
    to the last bit, with a reference and without.
    """
    length = text.ids.shape[1]
    if reference is None:
        losses = [engine.nll(ids) for ids in text.batches(batch)]
        distance = None
    else:
        scores = [engine.scores(ids, reference.states(i)) for i, ids in enumerate(text.batches(batch))]
        losses = [s.nll for s in scores]
        distance = Distance(torch.cat([s.kl for s in scores]).cpu(), torch.cat([s.flips for s in scores]).cpu())
    found = [nll / (length - 1) for batch_losses in losses for nll in batch_losses.tolist()]
    return Perplexity(tuple(found), len(found) * (length - 1), distance)
