"""Whatever is registered has an oracle and keeps the rules of its table; a name that no table has raises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe import allocation, methods, routing
from allocmoe.engines.planned import PlannedLayer
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.plan import Plan
from allocmoe.profile.quantities import QUANTITIES, quantity
from allocmoe.profile.run import ordered
from tests.contracts.oracles import LAYER_ORACLES, QUANTITY_ORACLES
from tests.engines.loops import EXPERTS, ORACLES, TOP, assert_same, kept, kept_by_hand, plan

ROOT = Path(__file__).parents[2]
UNKNOWN = "dice" * 10_000


def test_every_rule_and_quantity_has_an_oracle() -> None:
    assert set(ORACLES) == set(routing.RULES)
    assert set(LAYER_ORACLES) == set(allocation.RULES)
    assert set(QUANTITY_ORACLES) == set(QUANTITIES)
    for name, file in (LAYER_ORACLES | QUANTITY_ORACLES).items():
        assert (ROOT / file).is_file(), f"the oracle of {name}, {file}, is not there"


def test_tables_name_things_as_they_name_themselves() -> None:
    for table in (routing.RULES, allocation.RULES, QUANTITIES):
        assert all(name == thing.name for name, thing in table.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_made_of_what_there_is(name: str) -> None:
    row = METHODS[name]
    assert row.about
    assert set(row.needs) <= set(QUANTITIES)
    assert set(row.options) <= set(row.defaults)
    assert all(after in QUANTITIES for need in row.needs for after in ordered([need]))


@pytest.mark.parametrize("name", routing.RULES)
@pytest.mark.parametrize("padded", [False, True])
def test_a_token_rule_is_its_oracle(name: str, padded: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    for tokens in (1, 2, 9, 64):
        logits = torch.randn(tokens, EXPERTS, generator=generator) * 2
        weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
        real = torch.rand(tokens, generator=generator) < 0.7 if padded else None
        for reference in ("original", "survivors"):
            made = plan(name, reference=reference)
            answer = PlannedLayer.of(made, 0)(weights, ids, real, logits)
            assert_same(kept(*answer, EXPERTS), kept_by_hand(weights, ids, made, real, logits=logits))


@pytest.mark.parametrize("name", routing.RULES)
def test_with_everything_kept_a_token_rule_is_the_router(name: str) -> None:
    logits = torch.randn(9, EXPERTS, generator=torch.Generator().manual_seed(6)) * 2
    weights, ids = logits.softmax(-1).topk(TOP)
    rule = routing.RULES[name]
    whole = rule.keep_all(TOP, EXPERTS)
    numbers = {"k": float(TOP), **{n: torch.tensor(v) if isinstance(v, tuple) else v for n, v in whole.items()}}
    answer = PlannedLayer(rule, numbers, TOP, EXPERTS)(weights, ids, None, logits)
    assert_same(kept(*answer, EXPERTS), kept_by_hand(weights, ids, plan("top_k", layers=(float(TOP),))))


@pytest.mark.parametrize("name", [n for n, rule in routing.RULES.items() if rule.prefix])
def test_a_rule_that_says_so_keeps_a_prefix(name: str) -> None:
    logits = torch.randn(40, EXPERTS, generator=torch.Generator().manual_seed(7)) * 2
    weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
    _, chosen = PlannedLayer.of(plan(name), 0, -1)(weights, ids, None, logits)
    assert ((chosen >= 0).int().diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", routing.RULES)
def test_a_parameter_that_is_missing_unknown_or_no_number_is_refused(name: str) -> None:
    made, rule = plan(name), routing.RULES[name]
    refused(replace, made, parameters={**made.parameters, UNKNOWN: 1})
    for parameter in rule.parameters:
        rest = {n: v for n, v in made.parameters.items() if n != parameter}
        for wrong in (None, UNKNOWN, [], [[]], float("nan"), [float("inf")], ["a"], [[True]], {"a": 1}):
            refused(replace, made, parameters=rest | {parameter: wrong})
        refused(replace, made, parameters=rest)


def refused(call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(AllocMoEError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_unknown_name_raises_wherever_it_is_asked_for() -> None:
    for table in (routing.token_rule, allocation.layer_rule, quantity, methods.method):
        refused(table, UNKNOWN)
    refused(replace, plan("top_k"), token_rule=UNKNOWN)
    refused(Plan.from_dict, plan("top_k").to_dict() | {"token_rule": UNKNOWN})
    refused(methods.allocate, UNKNOWN, None, "", 1)
    refused(methods.needs, [UNKNOWN])
    refused(ordered, [UNKNOWN])
