"""Token rules on a CPU: one compiled call for what the reference does in some twenty small ones.

The reference is `PlannedLayer` over the rule's own `select`. Both keep the same pairs, in the same order and with the
same weights, but for the last place of a weight that only the logits give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allocmoe.routing.kernels import cpu_prefix as prefix
from allocmoe.routing.kernels import cpu_within as within
from allocmoe.routing.prune import ROUNDING
from allocmoe.routing.rule import TokenRule
from allocmoe.routing.scores import Scoring

ALL = np.zeros(0, np.bool_)
"""Stands for rows that are all real."""
BY_WEIGHT = np.zeros(0, np.float32)
"""Stands for norms where candidates are chosen by weight."""
PREFIX: dict[str, tuple[int, str, str]] = {
    "alloc_t": (prefix.ALLOC_T, "k_base", ""),
    "top_p": (prefix.TOP_P, "threshold", ""),
    "xmoe": (prefix.TOP_P, "threshold", ""),
    "naee": (prefix.NAEE, "threshold", ""),
    "adapmoe": (prefix.ADAPMOE, "threshold", "fisher"),
    "threshold": (prefix.THRESHOLD, "threshold", "k_base"),
}
"""Rules that keep first candidates: how, and the names of their two numbers."""
REFILL = {"refill": "top_k", "alloc_t_refill": "alloc_t"}
"""Rules that fill up, with their bases."""
FUNCTIONS = {"softmax": within.SOFTMAX, "sigmoid": within.SIGMOID}

Pass = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Weights [T, K], ids [T, K] and real rows [T] (ALL: every one) of a pass."""


def fused(
    rule: TokenRule, numbers: Mapping[str, Any], scoring: Scoring, weights: Tensor, ids: Tensor,
    valid: Tensor | None, logits: Tensor | None, dropped: int,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """What `PlannedLayer` returns, for float32 weights [T, K] on a CPU; None for a rule that has no compiled form."""
    if weights.dtype != torch.float32 or weights.dim() != 2:
        return None
    offered = (weights.numpy(), ids.numpy(), ALL if valid is None else valid.numpy())
    if rule.name in _WITHIN:
        assert logits is not None
        found = _WITHIN[rule.name](offered, rule.name, numbers, scoring, logits, dropped)
    else:
        found = _first(offered, rule.name, numbers, dropped)
    return None if found is None else (torch.from_numpy(found[0]), torch.from_numpy(found[1]))


def _first(offered: Pass, rule: str, numbers: Mapping[str, Any], dropped: int) -> Any:
    norms = _norms(numbers)
    if rule == "top_k":
        return prefix.narrow(*offered, norms, int(numbers["k"]), dropped)
    if rule not in PREFIX:
        return None
    how, a, b = PREFIX[rule]
    return prefix.prefix(
        *offered, norms, how, float(numbers["k"]), float(numbers[a]), float(numbers[b]) if b else 0.0, dropped
    )


def _norms(numbers: Mapping[str, Any]) -> np.ndarray:
    return numbers["norms"].numpy() if "norms" in numbers else BY_WEIGHT


def _refill(
    offered: Pass, rule: str, numbers: Mapping[str, Any], scoring: Scoring, logits: Tensor, dropped: int
) -> Any:  # fmt: skip
    base = REFILL[rule]
    if not _small(offered, numbers):
        return _first(offered, base, numbers, dropped)
    how, k_base = (prefix.TOP_K, 0.0) if base == "top_k" else (prefix.ALLOC_T, float(numbers["k_base"]))
    order, mass = _scores(offered, scoring, logits)
    return within.refilled(
        *offered, _norms(numbers), order, mass, how, float(numbers["k"]), k_base, int(numbers["pairs"]), dropped
    )


def _cap(
    offered: Pass, _rule: str, numbers: Mapping[str, Any], scoring: Scoring, logits: Tensor, dropped: int
) -> Any:  # fmt: skip
    if not _small(offered, numbers):
        return _first(offered, "top_k", numbers, dropped)
    order, mass = _scores(offered, scoring, logits)
    return within.capped(*offered, order, mass, int(numbers["experts"]), int(numbers["pairs"]), dropped)


def _prune(
    offered: Pass, _rule: str, numbers: Mapping[str, Any], scoring: Scoring, logits: Tensor, dropped: int
) -> Any:  # fmt: skip
    stays = (numbers["kept"] > 0).numpy()
    return within.pruned(*offered, logits.float().numpy(), stays, scoring.renormalise, ROUNDING, dropped)


_WITHIN: dict[str, Callable[..., Any]] = {"refill": _refill, "alloc_t_refill": _refill, "cap": _cap, "prune": _prune}


def _small(offered: Pass, numbers: Mapping[str, Any]) -> bool:
    """Whether a pass has few enough real tokens for more than the base rule."""
    weights, _, real = offered
    return bool((real.sum() if len(real) else len(weights)) <= numbers["refill_tokens"])


def _scores(offered: Pass, scoring: Scoring, logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What experts are chosen by and what they weigh, see `Scoring`; [T, N] both."""
    if scoring.bias is not None or scoring.open_groups < scoring.groups:
        order, mass = scoring(logits, torch.from_numpy(offered[1]))
        return order.numpy(), mass.numpy()
    known = logits.float().numpy()
    function = FUNCTIONS[scoring.function]
    return known, within.scored(known, offered[1], function, scoring.renormalise, scoring.scale)
