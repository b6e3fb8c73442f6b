"""The compiled form of every token rule gives what the reference gives; and the reference is tested against loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.plan import Plan
from allocmoe.routing import RULES, Scoring
from tests.engines.loops import EXPERTS, assert_same, candidates, kept, kept_by_hand, masks, plans
from tests.routing.kernels import by_hand
from tests.routing.kernels.drawn import LOGITS, PREFIX, Pass, logit_pass, prefix_pass

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def fused() -> Any:
    from allocmoe.routing.kernels import fused_on

    return fused_on(torch.device("cpu"))


def run(fused: Any, offered: Pass) -> tuple[Tensor, Tensor]:
    made = fused(
        RULES[offered.rule], offered.numbers, offered.scoring, offered.weights, offered.ids, offered.valid,
        offered.logits, offered.dropped,
    )  # fmt: skip
    assert made is not None, offered
    return made


def drawn(rule: str, seed: int) -> Pass | None:
    """A pass in float32; None where rounding decides. A token with two scores that are no numbers may keep others."""
    made = prefix_pass(seed, rule) if rule in PREFIX else logit_pass(seed, rule)
    made = replace(made, weights=made.weights.float())
    if rule in LOGITS:
        return made if by_hand.clear(made) else None
    return None if (made.weights.isnan().sum(1) > 1).any() else made


def differs(found: tuple[Tensor, Tensor], offered: Pass) -> str:
    """What is wrong with an answer, "" for nothing. Rules that keep first candidates must give the reference's very
    numbers; others the same pairs, and weights that come from the logits may be off by rounding."""
    expected = offered.reference()
    if offered.rule in PREFIX:
        width = found[1].shape[1]
        cut = [t[:, :width] for t in expected]
        same = torch.equal(found[1], cut[1]) and torch.equal(found[0].nan_to_num(-7), cut[0].nan_to_num(-7))
        return "" if same and (expected[1][:, width:] == offered.dropped).all() else f"{found} instead of {expected}"
    for t, (row, same) in enumerate(
        zip(*(kept(*answer, offered.dropped) for answer in (found, expected)), strict=True)
    ):
        if row.keys() != same.keys():
            return f"token {t} has experts {sorted(row)} instead of {sorted(same)}"
        if off := [e for e in row if abs(row[e] - same[e]) > 1e-6 * abs(same[e]) + 1e-30]:
            return f"token {t} has the weights {[row[e] for e in off]} instead of {[same[e] for e in off]}"
    return ""


def sweep(fused: Any, rule: str, seeds: range) -> None:
    tried = 0
    for seed in seeds:
        if offered := drawn(rule, seed):
            tried += 1
            assert not (wrong := differs(run(fused, offered), offered)), f"seed {seed}: {offered}: {wrong}"
    assert tried > len(seeds) / 2, "too few passes are clear"


@pytest.mark.parametrize("rule", [*PREFIX, *LOGITS])
def test_it_is_the_reference(fused: Any, rule: str) -> None:
    sweep(fused, rule, range(300))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("rule", [*PREFIX, *LOGITS])
@pytest.mark.parametrize("part", range(1, 11))
def test_it_is_the_reference_a_million_times(fused: Any, rule: str, part: int) -> None:
    sweep(fused, rule, range(part * 10_000, (part + 1) * 10_000))


@settings(deadline=None, max_examples=300)
@given(candidates(), plans(reference="original"), st.data())
def test_it_is_the_definition(fused: Any, given: tuple[Tensor, Tensor], plan: Plan, data: st.DataObject) -> None:
    """Against the same loops as the reference, on scores that tie wherever they can."""
    weights, ids = given
    real = data.draw(masks(len(ids)))
    answer = PlannedLayer.of(plan, 0, -1, fused=fused)(weights, ids, real)
    assert_same(kept(*answer, -1), kept_by_hand(weights, ids, plan, real))
    assert all(t.is_contiguous() for t in answer)
    assert EXPERTS not in answer[1].tolist()


@pytest.mark.parametrize("tokens", [4096, 32768])
@pytest.mark.parametrize("rule", ["alloc_t", "top_k"])
def test_long_prompts(fused: Any, tokens: int, rule: str) -> None:
    logits = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(tokens)).bfloat16().float()
    weights, ids = logits.softmax(-1).topk(16)
    offered = Pass(rule, {"k": 7.0, "k_base": 1}, weights, ids, None, -1)
    assert not differs(run(fused, offered), offered)


@pytest.mark.parametrize("rule", PREFIX)
def test_a_score_that_is_no_number_comes_first(fused: Any, rule: str) -> None:
    """As the reference's sort has it: wrong weights stay visible, and no other token's change."""
    weights = torch.tensor([[0.5, float("nan"), 0.25, 0.125], [0.5, 0.25, 0.125, 0.0]])
    ids = torch.tensor([[3, 1, 4, 0]] * 2)
    for numbers in (
        {"k": 2.0, "k_base": 1, "threshold": 0.3, "fisher": 1.0},
        {"k": 3.0, "k_base": 0, "threshold": 0.6, "fisher": 2.0},
    ):
        offered = Pass(rule, numbers, weights, ids, None, -1)
        assert not differs(run(fused, offered), offered)


def test_what_it_has_no_form_of_is_left_to_the_reference(fused: Any) -> None:
    offered = Pass("top_k", {"k": 2.0}, torch.rand(3, 4), torch.arange(4).repeat(3, 1), None, -1)
    call = (offered.numbers, Scoring(), offered.weights, offered.ids, None, None, -1)
    assert fused(RULES["top_k"], *call) is not None
    assert fused(RULES["top_k"], *call[:2], offered.weights.double(), *call[3:]) is None
    assert fused(replace(RULES["top_k"], name="another"), *call) is None
