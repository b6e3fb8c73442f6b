"""Alloc-D: k0 per layer, and K' where pairs cost something, at the least loss that a cost of distinct experts allows.

A decode step takes `step + sum_l b D_l + c P_l`. The budget may be in activations (what uniform top-k of so many would
cost), in distinct experts, or in milliseconds of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocmoe.allocation.check import UnreachableError, whole_budget
from allocmoe.allocation.cost import STEPS, Cost, least_loss
from allocmoe.allocation.rule import Allocation, LayerRule, Request
from allocmoe.errors import AllocMoEError, shown

UNITS = ("activations", "distinct", "ms")
OPTIONS: dict[str, float | str] = {
    "batch": 0, "unit": "activations", "cost_distinct": 1.0, "cost_pairs": 0.0, "cost_step": 0.0,
}  # fmt: skip
"""`batch` 0: whatever was profiled. b, c and the part of a step that no plan changes; in ms where the unit is that."""


@dataclass(frozen=True)
class Options:
    """What every layer may do.

    Attributes:
        pairs: (k0, K') of each option [O]; K' None where it is left to the token rule.
        loss, costs: [L, O].
        step: of a grid on which the costs are whole or nearly so, see `least_loss`.
    """

    pairs: list[tuple[int, int | None]]
    loss: np.ndarray
    costs: np.ndarray
    step: float


def between(table: np.ndarray, k: float) -> float:
    """A table [L, K] by whole k, summed over layers, at a k within 1..K: straight lines between."""
    whole = np.arange(1, table.shape[1] + 1)
    return float(sum(np.interp(k, whole, row) for row in table))


def never_worse(loss: np.ndarray) -> np.ndarray:
    """[L, K] by k0, or [L, K, K] by k0 and K', with each loss raised to the worst of more experts or pairs: what a few
    tokens say in favour of fewer is noise, and must not pay for a rise elsewhere."""
    for axis in range(1, loss.ndim):
        loss = np.flip(np.maximum.accumulate(np.flip(loss, axis), axis), axis)
    return loss


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


def _cost(request: Request) -> tuple[Cost, float]:
    """(b and c, the step) of what is to be limited; AllocMoEError for an unknown unit, or a cost that is none."""
    o = request.options
    unit, cost, step = o["unit"], Cost(distinct=o["cost_distinct"], pairs=o["cost_pairs"]), o["cost_step"]
    if unit not in UNITS:
        raise AllocMoEError(f"unknown unit {shown(unit)}: expected one of {', '.join(UNITS)}")
    for name, value in (("cost_distinct", cost.distinct), ("cost_pairs", cost.pairs), ("cost_step", step)):
        if not (math.isfinite(value) and value >= 0):
            raise AllocMoEError(f"{name} must be a number from 0 on, got {value:g}")
    if cost.distinct + cost.pairs == 0:
        raise AllocMoEError("cost_distinct and cost_pairs are both 0: then nothing costs anything")
    if unit == "distinct":
        if cost.pairs or step:
            raise AllocMoEError("a budget of distinct experts counts those alone: leave the costs out, or ask for ms")
        cost = Cost(distinct=1 / request.spec.layers)
    if unit == "ms" and (cost, step) == (Cost(distinct=1.0), 0.0):
        raise AllocMoEError(
            "a budget in ms needs to know what a step takes: give cost_distinct, cost_pairs and cost_step, "
            "or the records of `allocmoe fit` (--cost)"
        )
    return cost, step


def _options(request: Request, cost: Cost, decode: dict[str, Any]) -> Options:
    """k0 = 1..K alone where pairs are free, else every (k0, K'), as far as the option `pairs` allows."""
    distinct, top_k = np.array(decode["distinct"]), request.spec.top_k
    if cost.pairs == 0:
        # means over passes are whole numbers of 1 / passes: on that grid nothing is rounded
        costs, step = cost.of(distinct, np.zeros_like(distinct)), cost.distinct / decode["passes"]
        return Options([(k, None) for k in range(1, top_k + 1)], never_worse(np.array(decode["loss"])), costs, step)
    found = request.profile.quantities.get("decode_pairs") if request.profile else None
    if found is None or found["batch"] != decode["batch"]:
        raise AllocMoEError(
            f"a cost per pair needs the profile's decode_pairs, in batches of {decode['batch']} as its decode: measure "
            f"it with `allocmoe profile --quantity decode_pairs --decode-batch {decode['batch']}`"
        )
    most = int(request.options.get("pairs", 0)) or top_k
    chosen = [(k, p) for k in range(1, top_k + 1) for p in range(k, max(k, min(most, top_k)) + 1)]
    k0, pairs = np.array(chosen).T - 1
    loss, kept = never_worse(np.array(found["loss"])), np.array(found["pairs"])
    costs = cost.of(distinct[:, k0], kept[:, k0, pairs])
    exact = cost.pairs / found["passes"] if cost.distinct == 0 else 0.0
    spread = float(np.ptp(costs, axis=1).sum())
    return Options([*chosen], loss[:, k0, pairs], costs, exact or spread / STEPS or 1.0)


def _allocate(request: Request) -> Allocation:
    """The layers' own sum may be more activations than B, or fewer."""
    (cost, step), decode = _cost(request), _profile(request)
    layers, top_k = request.shape
    unit, batch = request.options["unit"], int(decode["batch"])
    # of uniform top-k, which keeps k pairs a token
    plain = cost.of(np.array(decode["distinct"]), np.tile(np.arange(1, top_k + 1) * batch, (layers, 1)))
    uniform = np.array([between(plain, b / layers) for b in range(layers, layers * top_k + 1)])
    if unit == "activations":
        whole = whole_budget(request.amount, layers, top_k)
        budget = between(plain, whole / layers)
    else:
        if not math.isfinite(request.amount):
            raise AllocMoEError(f"the budget must be a finite number of {unit}, got {request.amount:g}")
        budget = request.amount - step
        whole = layers + int(np.argmin(abs(uniform - np.clip(budget, uniform[0], uniform[-1]))))
    options = _options(request, cost, decode)
    if unit == "activations" and whole == layers * top_k:
        chosen = np.full(layers, len(options.pairs) - 1)
    else:
        chosen = _within(options, budget, request.amount, step, unit)
    spent = float(options.costs[np.arange(layers), chosen].sum())
    in_activations = float(np.interp(spent, uniform, np.arange(layers, layers * top_k + 1)))
    expected = in_activations if unit == "activations" else step + spent
    found = [options.pairs[o] for o in chosen]
    return Allocation(
        [float(k) for k, _ in found],
        {"pairs": [p for _, p in found]} if cost.pairs else {},
        {"batch": batch, "asked": request.amount, "expected": round(expected, 6)},
        whole,
    )


def _within(options: Options, budget: float, asked: float, step: float, unit: str) -> np.ndarray:
    """Each layer's option: the DP over what the options cost beyond the cheapest, which every layer can have."""
    cheapest = options.costs.min(1)
    # the dearest, each layer rounded up: a larger budget is no use
    most = float(np.ptp(options.costs, axis=1).sum()) + (len(cheapest) + 1) * options.step
    left = budget - float(cheapest.sum())
    if left < -1e-9 * max(1.0, abs(budget)):
        raise UnreachableError(
            f"a budget of {asked:g} {unit} cannot be met: the cheapest plan takes {cheapest.sum() + step:g}"
        )
    return least_loss(options.loss, options.costs - cheapest[:, None], min(max(left, 0.0), most), options.step)


RULE = LayerRule("distinct", _allocate, needs=("decode",), options=OPTIONS, amounts=True)
