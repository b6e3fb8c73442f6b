"""The exact allocation of a budget that is not counted in activations: `sum_l a + b D_l + c P_l <= budget`.

A layer of few tokens takes `a + b D + c P`, D distinct experts and P kept pairs of the pass: OEA (arXiv 2511.02237)
fits `a + b D` on a GPU; on a CPU pairs cost as well. With a, b, c measured on a machine the budget is a time; with b
= 1 alone it is one of distinct experts; with c = 1 alone one of pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from allocmoe.allocation.check import matrix
from allocmoe.errors import AllocMoEError

STEPS = 100_000
"""Of the grid that a budget is cut into unless the caller says how fine it is."""
NEAR = 1e-6
"""Of a step: costs that are whole steps but for rounding in float64 count as those."""


@dataclass(frozen=True)
class Cost:
    """What a pass through one layer costs: `a + b D + c P`, in any unit (ms, experts, pairs).

    Attributes:
        layer: a, whatever the layer keeps.
        distinct: b, per distinct expert.
        pairs: c, per kept pair.
    """

    layer: float = 0.0
    distinct: float = 0.0
    pairs: float = 0.0

    def of(self, distinct: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """[L, O]: costs of layers' options that touch D distinct experts [L, O] and keep P pairs [L, O] a pass."""
        found = self.layer + self.distinct * np.asarray(distinct) + self.pairs * np.asarray(pairs)
        return np.asarray(found, dtype=np.float64)


DISTINCT, PAIRS = Cost(distinct=1.0), Cost(pairs=1.0)
"""Budgets in distinct experts of a pass, and in its kept pairs."""


def least_loss(loss: np.ndarray, costs: np.ndarray, budget: float, step: float | None = None) -> np.ndarray:
    """Minimise `sum_l loss[l, o_l]` subject to `sum_l costs[l, o_l] <= budget`.

    Args:
        loss: [L, O] of every layer's options (k0 = 1..K, say, or pairs of k0 and K'), less is better: a rise of the
            mean NLL adds up to the logarithm of a rise of perplexity.
        costs: [L, O], not negative.
        budget: in the costs' unit.
        step: of the grid; budget / STEPS if None. Costs are rounded up to whole steps and the budget down, so that
            it holds, to NEAR of a step a layer. The answer is exact among the allocations that fit when rounded; where
            costs are whole steps those are all. Otherwise rounding takes less than a step a layer, L / STEPS of the
            budget by default.

    Returns:
        int64 [L], the option of each layer. Ties go to the lower cost (in steps), then to later options in earlier
        layers.

    Raises AllocMoEError if no allocation is that cheap. O(L O budget / step).
    """
    table, spent = matrix(loss, "the loss"), matrix(costs, "the cost")
    if table.shape != spent.shape or (spent < 0).any():
        raise AllocMoEError(f"costs must not be negative and of the losses' shape {table.shape}, got {spent.shape}")
    if not math.isfinite(budget) or budget < 0 or (step is not None and not (math.isfinite(step) and step > 0)):
        raise AllocMoEError(f"a budget of {budget:g} in steps of {step} is none: it must be a number from 0 on")
    step = step or max(budget, 1.0) / STEPS
    most, units = math.floor(budget / step + NEAR), np.ceil(spent / step - NEAR).astype(np.int64).clip(0)
    # best[u]: least loss of layers l.. that cost exactly u steps; chosen[l, u]: layer l's option in it
    best = np.full(most + 1, np.inf)
    best[0] = 0.0
    chosen = np.zeros((len(table), most + 1), dtype=np.int16)
    for layer in range(len(table) - 1, -1, -1):
        behind, best = best, np.full(most + 1, np.inf)
        for option, (more, cost) in enumerate(zip(table[layer], units[layer], strict=True)):
            if cost <= most:
                offer = behind[: most + 1 - cost] + more
                better = (offer <= best[cost:]) & (offer < np.inf)
                best[cost:][better], chosen[layer, cost:][better] = offer[better], option
    left = int(np.argmin(best))
    if best[left] == np.inf:
        raise AllocMoEError(
            f"a budget of {budget:g} cannot be met: the cheapest allocation costs {spent.min(1).sum():g}"
        )
    options = np.zeros(len(table), dtype=np.int64)
    for layer, row in enumerate(chosen):
        options[layer] = row[left]
        left -= int(units[layer, options[layer]])
    return options
