"""Allocation by halves against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.allocation import Request, layer_rule
from allocmoe.allocation.one_pass import by_halves
from allocmoe.errors import AllocMoEError
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.routing.steps import tables
from allocmoe.spec import MoESpec


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3), st.integers(1, 3), st.data())
def test_it_is_the_cheapest_that_spends_the_budget(layers: int, top_k: int, data: st.DataObject) -> None:
    steps = 2 * top_k - 1
    cost = np.array(data.draw(st.lists(st.lists(st.integers(0, 4), min_size=layers, max_size=layers),
                                       min_size=steps, max_size=steps)), dtype=float)  # fmt: skip
    budget = data.draw(st.integers(layers, layers * top_k))
    found = by_halves(cost, budget)
    assert sum(found) == budget

    def priced(ks: Any) -> float:
        return sum(cost[int(2 * k - 2), layer] for layer, k in enumerate(ks))

    halves = [k / 2 for k in range(2, 2 * top_k + 1)]
    offers = [ks for ks in itertools.product(halves, repeat=layers) if sum(ks) == budget]
    assert priced(found) == min(map(priced, offers))


SPEC = MoESpec("olmoe", 2, 8, 3, "softmax", renormalise=False, shared=0, dense_layers=0)


def request(**options: Any) -> Request:
    """Layer 1 costs, by weight; layer 0, by contribution."""
    tables_of = {name: np.zeros(shape) for name, shape in tables(SPEC).items()}
    for name, table in tables_of.items():
        table[:, 0 if "contribution" in name else 1] = np.arange(len(table))[::-1]
    profile = Sensitivity(SPEC, "mark", {"curvature": {name: table.tolist() for name, table in tables_of.items()}})
    return Request(SPEC, 4, profile, {"under": "alloc_t", "scores": "weight"} | options)


def test_the_table_is_that_of_the_rule_and_the_order() -> None:
    rule = layer_rule("one_pass")
    assert rule.allocate(request()) == [1, 3]
    assert rule.allocate(request(scores="contribution")) == [3, 1]
    assert rule.allocate(request(under="top_k", scores="contribution")) == [3, 1]
    with pytest.raises(AllocMoEError, match="unknown under 'naee': expected alloc_t or top_k"):
        rule.allocate(request(under="naee"))
