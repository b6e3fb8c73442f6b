"""Whole windows as if decoded: each layer's token rule decides among the tokens of one position, for all positions.

Attention is causal and everything else works on one token, so one forward pass over B windows, with the routing of each
position decided among its own B tokens, computes exactly what decoding the B windows token by token would. Only the
rounding of larger products differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# (weights [T, K], expert ids [T, K], real rows [T] or None, logits [T, N]) -> weights and ids, dropped pairs marked
Rule = Callable[[Tensor, Tensor, "Tensor | None", Tensor], tuple[Tensor, Tensor]]


def by_position(rule: Any, passes: int, weights: Tensor, index: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """A rule applied to each pass of a batch by itself.

    Args:
        rule: see `Rule`. A PlannedLayer says what its token rule can: `alone`, every token is decided by itself, so
            that passes do not matter; `many`, it takes candidates [passes, B, K]. Any other is called once a pass.
        passes: T; row r of the B * T belongs to pass r % T.
        weights, index: [B * T, K].
        logits: [B * T, N].

    Returns:
        Weights and ids [B * T, k], in the order of the rows; a pass that keeps fewer columns than another is filled
        up with dropped pairs.
    """
    if getattr(rule, "alone", False):
        found: tuple[Tensor, Tensor] = rule(weights, index, None, logits)
        return found
    grouped = [rows.unflatten(0, (-1, passes)).transpose(0, 1) for rows in (weights, index, logits)]
    if getattr(rule, "many", False):
        weights, index = rule(grouped[0], grouped[1], None, grouped[2])
    else:
        made = [rule(w, i, None, x) for w, i, x in zip(*grouped, strict=True)]
        width = max(ids.shape[1] for _, ids in made)
        weights = torch.stack([F.pad(w, (0, width - w.shape[1])) for w, _ in made])
        index = torch.stack([F.pad(i, (0, width - i.shape[1]), value=rule.dropped) for _, i in made])
    return weights.transpose(0, 1).flatten(0, 1), index.transpose(0, 1).flatten(0, 1)
