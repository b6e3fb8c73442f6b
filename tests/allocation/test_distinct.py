"""Alloc-D's units and costs, and K' beside k0, against all the allocations that there are."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.allocation.check import UnreachableError
from allocmoe.allocation.cost import STEPS
from allocmoe.allocation.distinct import never_worse
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.spec import MoESpec

MARK, TOP, BATCH, PASSES = "0" * 16, 3, 4, 8
MS = {"unit": "ms", "cost_distinct": 0.5, "cost_pairs": 0.125, "cost_step": 10.0}


def known(seed: int, layers: int = 2) -> Sensitivity:
    """Whole counts in PASSES passes: D rises with k0, P with K' but not above K T; losses fall, with noise."""
    rng = np.random.default_rng(seed)
    distinct = (rng.integers(1, 4 * PASSES, (layers, TOP)).cumsum(1) + 2 * PASSES) / PASSES
    loss, pairs = np.zeros((layers, TOP, TOP)), np.zeros((layers, TOP, TOP))
    for layer, k in product(range(layers), range(1, TOP + 1)):
        kept = np.full(TOP, float(k * BATCH))
        kept[k:] += np.sort(rng.integers(0, (TOP - k) * BATCH * PASSES + 1, TOP - k)) / PASSES
        kept[-1] = max(kept)
        pairs[layer, k - 1] = kept
        loss[layer, k - 1] = 2 + rng.lognormal(-2, 1) / k + rng.lognormal(-3, 1) / np.maximum(k, np.arange(1, TOP + 1))
    loss[:, -1] = 2.0
    loss += rng.normal(0, 0.01, loss.shape) * (np.arange(1, TOP + 1)[:, None] < TOP)
    same = {"batch": BATCH, "passes": PASSES}
    alone = {"loss": loss[..., -1].tolist(), "pairs": pairs[..., -1].tolist()}
    values = {
        "decode": {**alone, "distinct": distinct.tolist(), **same},
        "decode_pairs": {"loss": loss.tolist(), "pairs": pairs.tolist(), **same},
    }
    return Sensitivity(spec(layers), MARK, values)


def spec(layers: int) -> MoESpec:
    return MoESpec("olmoe", layers, 40, TOP, "softmax", False, 0, 0)


def make(profile: Sensitivity, budget: float, **options: Any) -> Plan:
    return allocate("alloc-d", profile.spec, MARK, budget, profile, **options)


def worst(table: list[list[float]], k: int, most: int) -> float:
    """The loss at (k0, K'), raised to that of every option of no fewer experts and pairs."""
    return max(table[i - 1][j - 1] for i in range(k, TOP + 1) for j in range(most, TOP + 1))


Priced = list[list[tuple[float, float, int, int]]]


def priced(profile: Sensitivity, distinct: float, pairs: float) -> Priced:
    """(loss, cost, k0, K') of every option of every layer; K' = K alone where pairs are free."""
    found = []
    for layer in range(profile.spec.layers):
        decode, both = profile.quantity("decode"), profile.quantity("decode_pairs")
        found.append([
            (
                worst(both["loss"][layer], k, most) if pairs else max(decode["loss"][layer][k - 1 :]),
                distinct * decode["distinct"][layer][k - 1] + pairs * both["pairs"][layer][k - 1][most - 1],
                k, most,
            )
            for k in range(1, TOP + 1) for most in (range(k, TOP + 1) if pairs else [TOP])
        ])  # fmt: skip
    return found


def least(options: Priced, budget: float) -> float:
    """Of all allocations within the budget, the least summed loss; inf where there is none."""
    return min(
        (math.fsum(o[0] for o in chosen) for chosen in product(*options) if math.fsum(o[1] for o in chosen) <= budget),
        default=math.inf,
    )


def told(plan: Plan, options: Priced) -> tuple[float, float]:
    """(loss, cost) of a plan by the same tables."""
    pairs = plan.parameters["pairs"]
    own = [
        next(o for o in row if o[2:] == (int(k), pairs if isinstance(pairs, int) else pairs[layer]))
        for layer, (row, k) in enumerate(zip(options, plan.layers, strict=True))
    ]
    return math.fsum(o[0] for o in own), math.fsum(o[1] for o in own)


costs = st.sampled_from([(1.0, 0.0), (0.5, 0.125), (0.55, 0.13), (0.3, 0.7), (0.0, 0.25), (2.908e-3, 1e-5)])


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10_000), st.integers(1, 3), costs, st.floats(0, 1.1), st.floats(0, 50))
def test_milliseconds_are_spent_at_the_least_loss(
    seed: int, layers: int, cost: tuple[float, float], share: float, step: float
) -> None:
    profile = known(seed, layers)
    options = priced(profile, *cost)
    low, high = (sum(f(o[1] for o in row) for row in options) for f in (min, max))
    budget, grid = low + share * (high - low), (high - low) / STEPS
    if cost == (1.0, 0.0) and step == 0.0:
        step = 1.0
    plan = make(profile, step + budget, unit="ms", cost_distinct=cost[0], cost_pairs=cost[1], cost_step=step)
    loss, spent = told(plan, options)
    assert spent <= budget + 1e-9 * (1 + step + budget)
    assert least(options, budget + 1e-9 * (1 + step + budget)) <= loss + 1e-12
    assert loss <= least(options, budget - layers * grid - 1e-9 * (1 + step)) + 1e-12, "at most a step a layer is lost"
    assert plan.origin["expected"] == pytest.approx(step + spent, abs=1e-6)
    assert (plan.origin["asked"], plan.origin["unit"], plan.origin["cost_step"]) == (step + budget, "ms", step)


@pytest.mark.parametrize("cost", [(1.0, 0.0), (0.5, 0.125), (0.0, 0.25)])
@pytest.mark.parametrize("seed", range(4))
def test_activations_stand_for_what_uniform_top_k_costs(seed: int, cost: tuple[float, float]) -> None:
    """Its k T pairs too; between whole k, straight lines."""
    profile, layers = known(seed), 2
    options = priced(profile, *cost)
    distinct = profile.quantity("decode")["distinct"]

    def uniform(k: int) -> float:
        return sum(cost[0] * distinct[layer][k - 1] + cost[1] * k * BATCH for layer in range(layers))

    for budget in range(layers, layers * TOP + 1):
        low, part = divmod(budget, layers)
        allowed = uniform(low) + part / layers * ((uniform(low + 1) - uniform(low)) if part else 0)
        plan = make(profile, budget, cost_distinct=cost[0], cost_pairs=cost[1])
        loss, spent = told(plan, options)
        assert plan.budget == budget == plan.origin["asked"]
        assert spent <= allowed + 1e-9
        if budget == layers * TOP:
            assert plan.layers == (TOP,) * layers
        grid = sum(np.ptp([o[1] for o in row]) for row in options) / STEPS
        assert least(options, allowed + 1e-9) - 1e-12 <= loss <= least(options, allowed - layers * grid) + 1e-12
        assert plan.origin["expected"] <= budget + 1e-6


def test_free_pairs_change_nothing_and_whatever_a_unit_of_distinct_experts_costs() -> None:
    for seed in range(5):
        profile = known(seed, 3)
        for budget in range(3, 3 * TOP + 1):
            plan = make(profile, budget)
            assert plan.parameters == {"pairs": TOP, "refill_tokens": 64}
            for times in (0.5, 0.1, 2.908e-3):
                again = make(profile, budget, cost_distinct=times)
                assert (again.layers, again.digest) == (plan.layers, plan.digest)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0, 1.2), st.floats(0, 0.3), st.sampled_from(["ms", "distinct"]))
def test_more_of_a_budget_is_never_more_loss(seed: int, share: float, more: float, unit: str) -> None:
    profile = known(seed)
    options = MS if unit == "ms" else {"unit": unit}
    table = priced(profile, 0.5, 0.125) if unit == "ms" else priced(profile, 0.5, 0.0)
    low, high = (sum(f(o[1] for o in row) for row in table) for f in (min, max))
    base = 10.0 if unit == "ms" else 0.0
    found = [told(make(profile, base + low + s * (high - low), **options), table) for s in (share, share + more)]
    assert found[1][0] <= found[0][0] + 1e-12
    for (_, spent), s in zip(found, (share, share + more), strict=True):
        assert spent <= low + s * (high - low) + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_distinct_experts_are_means_of_a_layer(seed: int) -> None:
    profile, layers = known(seed, 3), 3
    distinct = np.array(profile.quantity("decode")["distinct"])
    uniform = [sum(np.interp(b / layers, [1, 2, 3], row) for row in distinct) / layers for b in range(3, 10)]
    for asked in np.linspace(distinct[:, 0].mean(), distinct[:, -1].mean() + 3, 7):
        plan = make(profile, float(asked), unit="distinct")
        touched = np.mean([distinct[i, int(k) - 1] for i, k in enumerate(plan.layers)])
        assert touched <= asked + 1e-9
        assert plan.origin["expected"] == pytest.approx(touched, abs=1e-6)
        options = priced(profile, 1 / layers, 0.0)
        assert told(plan, options)[0] == pytest.approx(least(options, asked + 1e-9), abs=1e-12)
        assert plan.budget == 3 + int(np.argmin([abs(u - asked) for u in uniform])), "the nearest uniform budget"
        assert plan.parameters["pairs"] == TOP


def test_pairs_that_cost_something_are_left_out_where_they_gain_nothing(tmp_path: Path) -> None:
    """Layer 0 gains nothing from refill, layer 1 everything."""
    profile = known(0)
    both = profile.quantity("decode_pairs")
    flat, steep = [[2.5] * TOP, [2.5] * TOP, [2.0] * TOP], [[2.9, 2.5, 2.0], [2.8, 2.5, 2.0], [2.0] * TOP]
    values = {**profile.quantities, "decode_pairs": both | {"loss": [flat, steep]}}
    plan = make(Sensitivity(profile.spec, MARK, values), 2, cost_distinct=0.0, cost_pairs=1.0)
    assert plan.parameters["pairs"] == (1, 1), "two activations pay for no refill"
    dear = make(Sensitivity(profile.spec, MARK, values), 4, cost_distinct=0.0, cost_pairs=1.0)
    assert (dear.layers[0], dear.parameters["pairs"]) == (1.0, (1, TOP))
    dear.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == dear
    few = make(Sensitivity(profile.spec, MARK, values), 4, cost_distinct=0.0, cost_pairs=1.0, pairs=2)
    assert max(few.parameters["pairs"]) <= max(2, *map(int, few.layers)), "the option limits what may be chosen"


def test_never_worse_is_monotone_in_both_and_touches_no_loss_that_is() -> None:
    rng = np.random.default_rng(0)
    loss = rng.random((4, 5, 5))
    found = never_worse(loss)
    for layer, k, most in product(range(4), range(5), range(5)):
        assert found[layer, k, most] == loss[layer, k:, most:].max()
    assert (np.diff(found, axis=1) <= 0).all()
    assert (np.diff(found, axis=2) <= 0).all()
    np.testing.assert_array_equal(never_worse(found), found)
    np.testing.assert_array_equal(
        never_worse(loss[:, :, 0]), [[row[k:].max() for k in range(5)] for row in loss[:, :, 0]]
    )


def test_what_cannot_be_had_is_refused_with_what_can() -> None:
    profile = known(0)
    options = priced(profile, 0.5, 0.125)
    cheapest = 10 + sum(min(o[1] for o in row) for row in options)
    assert make(profile, cheapest, **MS).parameters["pairs"] == (1, 1), "the cheapest can be had"
    for low in (cheapest - 0.01, 0.0, -5.0):
        with pytest.raises(UnreachableError, match=f"ms cannot be met: the cheapest plan takes {cheapest:g}"):
            make(profile, low, **MS)
    with pytest.raises(UnreachableError, match="distinct cannot be met"):
        make(profile, 0.5, unit="distinct")
    for far in (1e300, 1e6):
        plan = make(profile, far, **MS)
        assert plan.budget == 2 * TOP
        assert told(plan, options)[0] == pytest.approx(least(options, math.inf))


@pytest.mark.parametrize(
    ("options", "budget", "says"),
    [
        ({"unit": "seconds"}, 4, "unknown unit 'seconds': expected one of activations, distinct, ms"),
        ({"unit": "ms"}, 4, "what a step takes"),
        ({"cost_pairs": -1}, 4, "cost_pairs must be a number from 0 on"),
        ({"cost_distinct": "nan"}, 4, "cost_distinct must be a number from 0 on"),
        ({"cost_step": "inf"}, 4, "cost_step must be a number from 0 on"),
        ({"cost_distinct": 0}, 4, "both 0"),
        ({"cost_pairs": "x"}, 4, "must be a number"),
        ({"unit": "distinct", "cost_pairs": 0.1}, 4, "counts those alone"),
        ({}, 4.5, "whole number"),
        ({}, 1, "outside 2..6"),
        (MS, math.nan, "finite number of ms"),
        (MS, math.inf, "finite number of ms"),
        (MS | {"pairs": -1}, 30, "pairs must be within"),
        (MS | {"pairs": 4}, 30, "pairs must be within"),
    ],
)
def test_what_is_none_is_refused(options: dict[str, Any], budget: float, says: str) -> None:
    with pytest.raises(AllocMoEError, match=says) as caught:
        make(known(0), budget, **options)
    assert "\n" not in str(caught.value)


def test_a_cost_per_pair_needs_a_profile_of_pairs_in_the_same_batches() -> None:
    profile = known(0)
    decode, both = profile.quantity("decode"), profile.quantity("decode_pairs")
    alone = Sensitivity(profile.spec, MARK, {"decode": decode})
    assert make(alone, 4, cost_distinct=2.0).parameters["pairs"] == TOP
    other = Sensitivity(profile.spec, MARK, {"decode": decode, "decode_pairs": both | {"batch": 8}})
    for lacking in (alone, other):
        with pytest.raises(AllocMoEError, match=r"in batches of 4 .*--quantity decode_pairs --decode-batch 4"):
            make(lacking, 4, cost_pairs=0.1)
