"""Tables per token rule, order of candidates and number of experts: what they hold, and what a token keeps in each.

Uniform top-k of k = 1..K, and Alloc-T of k = 1..K by halves; each with candidates in the order of their weights and of
their contributions. A table is [steps][L].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from allocmoe.routing.threshold import steps

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.spec import MoESpec

ORDERS = ("weight", "contribution")


def counts_of(top_k: int) -> dict[str, list[float]]:
    """Token rule -> the mean numbers of experts of its steps."""
    return {"top_k": [float(k) for k in range(1, top_k + 1)], "alloc_t": steps(top_k)}


def table_of(rule: str, order: str) -> str:
    """Name of the table of a token rule under an order of candidates."""
    return f"{rule} by {order}"


def tables(spec: MoESpec) -> dict[str, tuple[int, int]]:
    """The shape of every table, by name."""
    steps_of = counts_of(spec.top_k).items()
    return {table_of(rule, order): (len(ks), spec.layers) for rule, ks in steps_of for order in ORDERS}


def in_order(weights: Tensor, index: Tensor, norms: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores [T, K] of candidates, the best first, ties in the router's order, and where each stood; by weight, or with
    norms [N] by weight times norm."""
    worth = weights.float() if norms is None else weights.float() * norms.float()[index.long()]
    found: tuple[Tensor, Tensor] = worth.sort(dim=-1, descending=True, stable=True)
    return found


def kept_counts(scores: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """Every token rule, with how many of its first candidates each token keeps at each of its steps: [T] a step."""
    import torch

    from allocmoe.routing.alloc_t import alloc_t

    tokens, top_k = scores.shape
    for rule, ks in counts_of(top_k).items():
        if rule == "top_k":
            yield rule, [torch.full((tokens,), int(k), device=scores.device) for k in ks]
        else:
            yield rule, [alloc_t(scores, k).sum(1) for k in ks]
