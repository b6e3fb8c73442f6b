"""Alloc-D: k0 per layer such that a batch touches no more distinct experts than uniform top-k, at the least loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocmoe.allocation.cost import DISTINCT, least_loss
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.errors import AllocMoEError


def uniform_distinct(distinct: np.ndarray, k: float) -> float:
    """Distinct experts of a pass, summed over layers, under uniform top-k; straight lines between whole k.

    Args:
        distinct: [L, K], column k-1 is D_l(k).
        k: within 1..K.
    """
    whole = np.arange(1, distinct.shape[1] + 1)
    return float(sum(np.interp(k, whole, row) for row in distinct))


def never_worse(loss: np.ndarray) -> np.ndarray:
    """[L, K] with each loss raised to the worst of more experts: what a few tokens say in favour of fewer experts is
    noise, and must not pay for a rise elsewhere."""
    return np.maximum.accumulate(loss[:, ::-1], axis=1)[:, ::-1]


def _profile(request: Request) -> dict[str, Any]:
    """The quantity `decode`; AllocMoEError if the batch that is asked for is another."""
    found: dict[str, Any] = request.quantity("decode")
    wanted, batch = int(request.options["batch"]), int(found["batch"])
    if wanted not in (0, batch):
        raise AllocMoEError(
            f"the profile's decode was measured in batches of {batch}, not {wanted}: measure it with "
            f"`allocmoe profile --quantity decode --decode-batch {wanted}`"
        )
    return found


def _allocate(request: Request) -> list[float]:
    """B activations stand for what uniform top-(B / L) touches; the layers' own sum may be more than B, or less."""
    found, (layers, top_k) = _profile(request), request.shape
    if request.budget == layers * top_k:
        return [float(top_k)] * layers
    distinct, loss = np.array(found["distinct"]), never_worse(np.array(found["loss"]))
    budget = uniform_distinct(distinct, request.budget / layers)
    # means over passes are whole numbers of 1 / passes: on that grid nothing is rounded
    costs = DISTINCT.of(distinct, np.array(found["pairs"]))
    return (least_loss(loss, costs, budget, 1 / found["passes"]) + 1).astype(float).tolist()


RULE = LayerRule(
    "distinct",
    _allocate,
    needs=("decode",),
    options={"batch": 0},
    made_for=lambda request: {"batch": int(_profile(request)["batch"])},
)
