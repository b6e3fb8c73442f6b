"""The distance to the dense parent's predictions, over a vocabulary too large to keep logits of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 128  # positions whose logits are made at a time


class _Distance(torch.autograd.Function):
    """Sum over rows; the gradient is made with the value, so that no logits are kept."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, theirs: Tensor, weight: Tensor, labels: Tensor, hard: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        grads = []
        for own, parent, label in zip(mine.split(ROWS), theirs.split(ROWS), labels.split(ROWS), strict=True):
            log_q, log_p = ((rows @ weight.T).float().log_softmax(-1) for rows in (own, parent))
            p, place = log_p.exp(), label[:, None]
            total += (1 - hard) * (p * log_p.sub_(log_q)).sum(dtype=torch.float64)
            total -= hard * log_q.gather(1, place).sum(dtype=torch.float64)
            wanted = p.mul_(1 - hard).scatter_add_(1, place, torch.full_like(place, hard, dtype=p.dtype))
            grads.append(log_q.exp_().sub_(wanted).to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(grads))
        return total.to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * outer[0].to(grad.dtype), None, None, None, None


def distance(mine: Tensor, theirs: Tensor, weight: Tensor, labels: Tensor, hard: float = 0.0) -> Tensor:
    """(1 - hard) KL(parent || student) + hard times the cross-entropy of the text, mean over positions, nats.

    Args:
        mine, theirs: last hidden states [n, H] of the student and of its parent. Only `mine` gets a gradient.
        weight: [V, H] of the LM head that they share, frozen.
        labels: [n] the text's next tokens.
        hard: share of the text itself in what is learned.
    """
    return _Distance.apply(mine, theirs, weight, labels, hard) / len(mine)
