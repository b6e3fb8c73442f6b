"""Refill and cap against loops over tokens and experts: ties, padding, one token, few experts, groups, other scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.routing.cap import expected_distinct
from allocmoe.routing.scores import Scoring
from tests.engines.loops import (
    EXPERTS,
    LOGIT_RULES,
    NORMS,
    ORACLES,
    TOP,
    Scores,
    assert_same,
    kept,
    kept_by_hand,
    masks,
    ordered,
    plan,
    softmax,
)

REFILLS = ("refill", "alloc_t_refill")


@st.composite
def routed(draw: st.DrawFn, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [T, N] of few levels, so that ties are everywhere, and the router's candidates."""
    row = st.lists(st.integers(0, 5), min_size=EXPERTS, max_size=EXPERTS)
    logits = torch.tensor(draw(st.lists(row, min_size=1, max_size=tokens))).float() / 2
    weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
    return logits, weights, ids.int()


@st.composite
def limits(draw: st.DrawFn, rule: str) -> Plan:
    k = draw(st.integers(1, TOP)) if rule != "alloc_t_refill" else draw(st.integers(4, 4 * TOP)) / 4
    parameters = {"pairs": draw(st.integers(1, TOP + 1)), "refill_tokens": draw(st.integers(0, 8))}
    own = {"refill": {}, "alloc_t_refill": {"k_base": draw(st.integers(0, TOP))},
           "cap": {"experts": (draw(st.integers(1, EXPERTS)),)}}  # fmt: skip
    reference = draw(st.sampled_from(["original", "survivors"]))
    return plan(rule, layers=(float(k),), parameters=parameters | own[rule], reference=reference)


def clear(logits: Tensor, real: Tensor | None, made: Plan) -> bool:
    """Whether no two experts' sums are so near each other that rounding orders them."""
    rows = logits.softmax(-1).double()[slice(None) if real is None else real]
    sums = rows.sum(0).sort().values.diff()
    return made.token_rule != "cap" or len(rows) < 2 or bool((sums > 1e-5).all())


@settings(deadline=None, max_examples=300)
@given(routed(), st.sampled_from(LOGIT_RULES).flatmap(limits), st.data())
def test_they_are_their_definition(given: tuple[Tensor, Tensor, Tensor], made: Plan, data: st.DataObject) -> None:
    logits, weights, ids = given
    real = data.draw(masks(len(ids)))
    if made.rule.by_scores and data.draw(st.booleans()):
        made = replace(made, norms=(data.draw(NORMS),))
    if made.token_rule == "cap":  # sums over tokens: no ties but within a single token
        logits = logits + torch.arange(logits.numel()).view_as(logits) ** 0.5 / 100 if len(logits) > 1 else logits
        weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
    assume(clear(logits, real, made))
    for dropped in (-1, EXPERTS):
        answer = PlannedLayer.of(made, 0, dropped)(weights, ids, real, logits)
        assert_same(kept(*answer, dropped), kept_by_hand(weights, ids, made, real, logits=logits))
        assert ((answer[1] != dropped).int().diff(dim=1) <= 0).all(), "kept pairs come first in a row"


def some(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(tokens, EXPERTS, generator=torch.Generator().manual_seed(seed)) * 2
    return logits, *logits.softmax(-1).topk(TOP, sorted=False)


def sets(answer: tuple[Tensor, Tensor]) -> list[set[int]]:
    return [set(row) for row in kept(*answer, -1)]


@pytest.mark.parametrize("rule", REFILLS)
def test_refill_touches_what_its_base_touches_and_keeps_more(rule: str) -> None:
    logits, weights, ids = some(8)
    base = plan({"refill": "top_k", "alloc_t_refill": "alloc_t"}[rule], layers=(1.75 if "alloc" in rule else 2.0,))
    under = sets(PlannedLayer.of(base, 0, -1)(weights, ids, None))
    made = plan(rule, parameters={"pairs": TOP})
    filled = sets(PlannedLayer.of(made, 0, -1)(weights, ids, None, logits))
    assert set().union(*filled) == set().union(*under)
    assert all(more >= few for more, few in zip(filled, under, strict=True))
    assert sum(map(len, filled)) > sum(map(len, under))


@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_above_the_limit_the_base_runs_alone(rule: str) -> None:
    """The limit counts real tokens: a padded pass may be longer."""
    base = "alloc_t" if rule == "alloc_t_refill" else "top_k"
    layers = (1.75,) if base == "alloc_t" else (2.0,)
    logits, weights, ids = some(12)
    real = torch.arange(12) % 2 == 0
    for limit, mask, alone in ((12, None, False), (11, None, True), (6, real, False), (5, real, True)):
        made = plan(rule, layers=layers, parameters={"refill_tokens": limit})
        found = kept(*PlannedLayer.of(made, 0, -1)(weights, ids, mask, logits), -1)
        under = kept(*PlannedLayer.of(plan(base, layers=layers), 0, -1)(weights, ids, mask), -1)
        assert (found == under) is alone


@pytest.mark.parametrize(("rule", "layers"), [("refill", (2.0,)), ("alloc_t_refill", (2.0,)), ("refill", (1.0,))])
@pytest.mark.parametrize("pairs", [1, 3, TOP])
def test_one_token_keeps_its_own_base_and_no_more(rule: str, layers: tuple[float], pairs: int) -> None:
    """Its own base is all that is open: top-k0, whatever K' says; so refill gains nothing at batch 1."""
    logits, weights, ids = some(1)
    made = plan(rule, layers=layers, parameters={"pairs": pairs})
    found = PlannedLayer.of(made, 0, -1)(weights, ids, None, logits)
    assert_same(kept(*found, -1), kept_by_hand(weights, ids, plan("top_k", layers=layers)))


def test_one_token_under_cap_keeps_its_best_c() -> None:
    logits, weights, ids = some(1)
    for count in (1, 2, 4, 9):
        made = plan("cap", parameters={"experts": (count,), "pairs": TOP})
        found = PlannedLayer.of(made, 0, -1)(weights, ids, None, logits)
        assert_same(kept(*found, -1), kept_by_hand(weights, ids, plan("top_k", layers=(float(min(count, TOP)),))))


@settings(deadline=None, max_examples=100)
@given(routed(), st.sampled_from(REFILLS), st.data())
def test_each_layer_may_have_its_own_pairs(
    given: tuple[Tensor, Tensor, Tensor], rule: str, data: st.DataObject
) -> None:
    logits, weights, ids = given
    real = data.draw(masks(len(ids)))
    pairs = tuple(data.draw(st.lists(st.integers(1, TOP + 1), min_size=3, max_size=3)))
    made = plan(rule, layers=(1.0, 2.0, 3.0), budget=6, parameters={"pairs": pairs})
    for layer in range(3):
        answer = kept(*PlannedLayer.of(made, layer, -1)(weights, ids, real, logits), -1)
        assert_same(answer, kept_by_hand(weights, ids, made, real, layer=layer, logits=logits))
        alike = replace(made, parameters={**made.parameters, "pairs": pairs[layer]})
        assert answer == kept(*PlannedLayer.of(alike, layer, -1)(weights, ids, real, logits), -1)


@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_pairs_are_one_number_or_one_a_layer(rule: str, tmp_path: Path) -> None:
    own = {"experts": (6, 6)} if rule == "cap" else {}
    made = plan(rule, layers=(1.0, 2.0), parameters={"pairs": (2, 4), **own})
    assert [made.numbers(layer)["pairs"] for layer in (0, 1)] == [2, 4]
    made.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert (again, again.digest) == (made, made.digest)
    digests = {replace(made, parameters={**made.parameters, "pairs": p}).digest for p in ((2, 4), (4, 2), 2, 4)}
    assert len(digests) == 4
    for wrong, says in (
        ((2,), "one value of pairs per layer: 2, got 1"), ((2, 3, 4) * 10_000, "got 30000"), ((), "got 0"),
        ((2, 0), "below 1"), ((2, 1.5), "whole number"), ((2, (3,)), "not a finite number"),
        ("24", "not a finite number"), ({"a": 2}, "not a finite number"), (0, "below 1"), ((2, True), "finite number"),
    ):  # fmt: skip
        with pytest.raises(AllocMoEError, match=says) as caught:
            replace(made, parameters={**made.parameters, "pairs": wrong})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_a_plan_with_one_number_of_pairs_has_the_digest_that_it_had() -> None:
    assert plan("refill").digest == "f3a48d97702669a6"
    assert plan("alloc_t_refill").digest == "1c1e35af9cb23233"


def test_fewer_open_experts_than_k() -> None:
    logits = torch.zeros(3, EXPERTS)
    logits[:, 5], logits[:, 2] = 4.0, 3.0
    weights, ids = logits.softmax(-1).topk(TOP)
    for made in (plan("refill", layers=(1.0,), parameters={"pairs": TOP}), plan("cap", parameters={"experts": (1,)})):
        found = PlannedLayer.of(made, 0, -1)(weights, ids, None, logits)
        assert sets(found) == [{5}] * 3
        assert found[1].shape == (3, TOP)


def test_every_tokens_first_is_open_even_beyond_the_cap() -> None:
    logits = torch.eye(EXPERTS)[:8] * 6
    weights, ids = logits.softmax(-1).topk(TOP)
    found = sets(
        PlannedLayer.of(plan("cap", parameters={"experts": (2,), "pairs": 1}), 0, -1)(weights, ids, None, logits)
    )
    assert found == [{e} for e in range(8)]


def test_ties_of_a_cap_go_to_the_lower_expert() -> None:
    """Columns that are equal in every token have equal sums."""
    logits = torch.tensor([[3.0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], [3.0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    weights, ids = logits.softmax(-1).topk(TOP)
    made = plan("cap", parameters={"experts": (3,), "pairs": TOP})
    assert sets(PlannedLayer.of(made, 0, -1)(weights, ids, None, logits)) == [{0, 1, 2}] * 2


@pytest.mark.parametrize("rule", LOGIT_RULES)
@pytest.mark.parametrize("junk", [0.0, 1e30, -1e30, math.inf, math.nan])
def test_padding_opens_nothing_and_keeps_nothing(rule: str, junk: float) -> None:
    """Whatever its row holds, also where the router marks its ids."""
    logits, weights, ids = some(7)
    real = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    layer = PlannedLayer.of(plan(rule, reference="survivors"), 0, -1)
    alone = kept(*layer(weights[real], ids[real], None, logits[real]), -1)
    for marked in (False, True):
        logits[~real], weights[~real] = junk, junk
        ids[~real] = -1 if marked else torch.arange(TOP)
        found = layer(weights, ids, real, logits)
        assert (found[1][~real] == -1).all()
        assert (found[0][~real] == 0).all()
        assert_same(kept(found[0][real], found[1][real], -1), alone)


@pytest.mark.parametrize("rule", LOGIT_RULES)
def test_no_row_and_no_token(rule: str) -> None:
    logits, weights, ids = some(4)
    layer = PlannedLayer.of(plan(rule), 0, -1)
    for real in (None, torch.zeros(0, dtype=torch.bool)):
        assert len(layer(weights[:0], ids[:0], real, logits[:0])[1]) == 0
    assert (layer(weights, ids, torch.zeros(4, dtype=torch.bool), logits)[1] == -1).all()


def biased(logits: Tensor, bias: list[float], groups: int, open_groups: int) -> tuple[Scores, Scores]:
    """DeepSeek-V3's scores by hand: sigmoid + bias in the open groups to choose, sigmoid to weigh, summed to 2.5."""
    order, mass, size = {}, {}, EXPERTS // groups
    for t, row in enumerate(logits.double().tolist()):
        score = [1 / (1 + math.exp(-v)) for v in row]
        choose = [s + b for s, b in zip(score, bias, strict=True)]
        worth = [sum(sorted(choose[g * size : (g + 1) * size])[-2:]) for g in range(groups)]
        usable = sorted(range(groups), key=lambda g: -worth[g])[:open_groups]
        order[t] = [c if e // size in usable else -math.inf for e, c in enumerate(choose)]
        own = sorted(range(EXPERTS), key=lambda e: -order[t][e])[:TOP]
        whole = math.fsum(score[e] for e in own)
        mass[t] = [2.5 * s / whole for s in score]
    return order, mass


@pytest.mark.parametrize("rule", LOGIT_RULES)
@pytest.mark.parametrize("pairs", [3, TOP])
def test_biased_sigmoids_in_groups(rule: str, pairs: int) -> None:
    """The order is not that of the weights, and experts outside a token's groups are not used."""
    logits, _, _ = some(9, seed=3)
    bias = (torch.randn(EXPERTS, generator=torch.Generator().manual_seed(4)) * 0.3).tolist()
    order, mass = biased(logits, bias, 4, 2)
    ids = torch.tensor([sorted(range(EXPERTS), key=lambda e, t=t: -order[t][e])[:TOP] for t in range(9)])
    weights = torch.tensor([[mass[t][e] for e in row] for t, row in enumerate(ids.tolist())])
    made: Any = plan(rule, parameters={"pairs": pairs})
    scoring = Scoring("sigmoid", True, 2.5, 4, 2, torch.tensor(bias))
    found = PlannedLayer.of(made, 0, -1, lambda: scoring)(weights, ids, None, logits)
    rows = {t: ordered(weights[t], ids[t]) for t in range(9)}
    wanted = ORACLES[rule](rows, made.numbers(0), logits, order, mass)
    assert_same(kept(*found, -1), [{e: w for w, e in wanted[t]} for t in range(9)])
    plain = ORACLES[rule](rows, made.numbers(0), logits)
    assert any({e for _, e in wanted[t]} != {e for _, e in plain[t]} for t in range(9)), "this could not have failed"


def test_weights_of_a_renormalising_model_are_of_the_original_k() -> None:
    logits, weights, ids = some(8)
    weights = weights / weights.sum(-1, keepdim=True)
    for reference in ("original", "survivors"):
        made = plan("refill", parameters={"pairs": TOP}, reference=reference)
        layer = PlannedLayer.of(made, 0, -1, lambda: Scoring(renormalise=True))
        for t, row in enumerate(kept(*layer(weights, ids, None, logits), -1)):
            scores = softmax(logits[t].double().tolist())
            whole = math.fsum(scores[e] for e in (row if reference == "survivors" else ids[t].tolist()))
            assert row == pytest.approx({e: scores[e] / whole for e in row}, rel=1e-5)


def test_the_expected_number_of_distinct_experts() -> None:
    """Against draws: each token takes k of N, evenly."""
    generator = torch.Generator().manual_seed(0)
    for k, tokens in ((3, 8), (4, 1), (2, 30)):
        drawn = torch.rand(4000, tokens, EXPERTS, generator=generator).topk(k, dim=-1).indices
        distinct = [len(set(d)) for d in drawn.flatten(1).tolist()]
        assert expected_distinct(EXPERTS, k, tokens) == pytest.approx(sum(distinct) / 4000, abs=0.1)
