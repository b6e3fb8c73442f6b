"""The bench of routers has numbers for every token rule, under which it does something."""

from __future__ import annotations

import pytest
import torch

from allocmoe.engines.planned import PlannedLayer
from allocmoe.routing import RULES
from bench import test_routing as timed

FEW, MANY = timed.EXPERTS


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_has_numbers_and_something_to_do(rule: str) -> None:
    logits = torch.randn(32, FEW, generator=torch.Generator().manual_seed(0))
    weights, ids = logits.softmax(-1).topk(timed.TOP, sorted=False)
    numbers = timed.own_numbers(rule, FEW)
    assert {*RULES[rule].parameters, "k"} == set(numbers)
    kept, chosen = PlannedLayer(RULES[rule], numbers, timed.TOP, -1)(weights, ids.int(), None, logits)
    whole = torch.zeros(32, FEW).scatter_(1, ids, weights)
    real = chosen >= 0
    after = torch.zeros(32, FEW).scatter_add_(1, chosen.long() * real, kept * real)
    assert not torch.equal(after, whole), f"add numbers for {rule} to bench/test_routing.py"
    assert set(timed.own_numbers(rule, MANY)) == set(numbers)
