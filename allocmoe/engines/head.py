"""The LM head over whole windows, a piece at a time: losses, and how far a plan's distribution is from the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HEAD_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}  # of logits made at a time: what a cache, or a GPU, holds


class Scores(NamedTuple):
    """What one batch of windows [B, T] says of a plan, against the unchanged model on the same windows.

    Attributes:
        nll: [B] float64, summed negative log-likelihood, nats.
        kl: [B, T - 1] float64, KL(p_original || p_plan) at every predicted position, over the full vocabulary, nats.
        flips: bool [B, T - 1], whether the most likely token is another one.
    """

    nll: Tensor
    kl: Tensor
    flips: Tensor


def window_nll(head: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """Summed NLL [B] in float64 of each window, from last hidden states [B, T, H] and ids [B, T].

    Rows of logits are made in pieces: less memory, and on a CPU they stay in the cache.
    """
    losses = [_losses(head(states), targets) for states, targets in _pieces(head, ids, hidden)]
    return torch.cat(losses).view(len(ids), -1).double().sum(1)


def window_scores(head: Any, hidden: Tensor, reference: Tensor, ids: Tensor) -> Scores:
    """The losses, exactly as `window_nll` has them, and the distance from the unchanged model.

    Args:
        head: states [n, H] -> logits [n, V].
        hidden, reference: last hidden states [B, T, H] under the plan, and of the unchanged model. They are H
            numbers a token and logits V: so states are what can be kept of a text.
        ids: [B, T].
    """
    losses, divergences, flips = [], [], []
    for states, original, targets in _pieces(head, ids, hidden, reference):
        logits, wanted = head(states), head(original)
        losses.append(_losses(logits, targets))
        divergences.append(divergence(wanted, logits))
        flips.append(wanted.argmax(-1) != logits.argmax(-1))
    shape = len(ids), -1
    nll = torch.cat(losses).view(shape).double().sum(1)
    return Scores(nll, torch.cat(divergences).view(shape), torch.cat(flips).view(shape))


def divergence(original: Tensor, plan: Tensor) -> Tensor:
    """KL(p_original || p_plan) [n] in nats of logits [n, V], in float64; rounding never makes it negative."""
    log_p, log_q = original.double().log_softmax(-1), plan.double().log_softmax(-1)
    return (log_p.exp() * log_q.neg_().add_(log_p)).sum(-1).clamp_(min=0)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def _pieces(head: Any, ids: Tensor, *hidden: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of each [B, T, H] that predict a token, with the tokens last, as many as fit HEAD_BYTES of logits."""
    rows = [states[:, :-1].flatten(0, 1) for states in hidden] + [ids[:, 1:].flatten()]
    size = max(1, HEAD_BYTES.get(rows[0].device.type, 1 << 30) // (4 * head.weight.shape[0]))
    return zip(*(part.split(size) for part in rows), strict=True)
