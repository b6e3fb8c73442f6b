"""The Triton kernels against the torch rules, under Triton's interpreter. `test_cuda` runs this in its own process.

By hand: `TRITON_INTERPRET=1 python -m pytest tests/routing/kernels/interpreted.py`; with ALLOCMOE_KERNEL_SEEDS so many
times as many passes are drawn.
"""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.routing import RULES, Scoring
from allocmoe.routing.kernels.cuda import fused
from tests.routing.kernels import by_hand
from tests.routing.kernels.drawn import LOGITS, PREFIX, Pass, logit_pass, prefix_pass, routed

SEEDS = int(os.environ.get("ALLOCMOE_KERNEL_SEEDS", "1"))
RELATIVE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}  # the interpreter cuts bfloat16 off, a GPU rounds it


def run(offered: Pass) -> tuple[Tensor, Tensor]:
    made = fused(
        RULES[offered.rule], offered.numbers, offered.scoring, offered.weights, offered.ids, offered.valid,
        offered.logits, offered.dropped,
    )  # fmt: skip
    assert made is not None, offered
    assert made[0].dtype == offered.weights.dtype
    assert made[1].dtype == offered.ids.dtype
    return made


def bits(weights: Tensor) -> Tensor:
    """Zeros of both signs differ, and NaN equals NaN."""
    whole = torch.int32 if weights.dtype == torch.float32 else torch.int16
    return torch.where(weights.isnan(), 1, weights.contiguous().view(whole))


def assert_as_the_reference(offered: Pass) -> None:
    weights, ids = run(offered)
    wanted_weights, wanted_ids = offered.reference()
    width = ids.shape[1]
    assert (wanted_ids[:, width:] == offered.dropped).all(), offered
    assert torch.equal(ids, wanted_ids[:, :width]), offered
    assert torch.equal(bits(weights), bits(wanted_weights[:, :width])), offered


def assert_as_by_hand(offered: Pass) -> None:
    weights, ids = run(offered)
    for t, row in enumerate(by_hand.kept(offered)):
        rest = ids.shape[1] - len(row)  # top-k that runs alone gives k columns
        assert ids[t].tolist() == [*row, *[offered.dropped] * rest], (t, offered)
        wanted = torch.tensor([*row.values(), *[0.0] * rest], dtype=torch.float64)
        gap = (weights[t].double() - wanted).abs()
        assert (gap <= RELATIVE[weights.dtype] * wanted.abs()).all(), (t, wanted, weights[t], offered)
        own = by_hand.own_weights(offered, t)
        if offered.rule != "prune":
            exact = [float(w) == own[int(e)] for e, w in zip(ids[t], weights[t], strict=True) if int(e) in own]
            assert all(exact) or not len(row), (t, offered)


@pytest.mark.parametrize("rule", PREFIX)
def test_first_candidates_are_kept_as_the_reference_keeps_them(rule: str) -> None:
    for seed in range(60 * SEEDS):
        assert_as_the_reference(prefix_pass(seed, rule))


@pytest.mark.parametrize("rule", LOGITS)
def test_rules_over_logits_are_their_definition(rule: str) -> None:
    tried = 0
    for seed in range(16 * SEEDS):
        offered = logit_pass(seed, rule)
        if by_hand.clear(offered):
            assert_as_by_hand(offered)
            tried += 1
    assert tried > 8 * SEEDS, "too few passes are clear"


@settings(deadline=None, max_examples=120 * SEEDS, suppress_health_check=list(HealthCheck), database=None)
@given(st.data())
def test_alloc_t_with_ties_everywhere(data: st.DataObject) -> None:
    K = data.draw(st.integers(1, 5))
    rows = st.lists(st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5]), min_size=K, max_size=K), min_size=1, max_size=6)
    weights = torch.tensor(data.draw(rows))
    valid = data.draw(st.none() | st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)))
    numbers = {"k": data.draw(st.integers(0, 4 * K)) / 4, "k_base": float(data.draw(st.integers(0, K)))}
    ids = torch.arange(K).flip(0).expand(len(weights), K)
    real = None if valid is None else torch.tensor(valid)
    assert_as_the_reference(Pass("alloc_t", numbers, weights, ids, real, -1))


@pytest.mark.parametrize("T", [130, 300, 1100])
def test_alloc_t_over_several_programs(T: int) -> None:
    """More than 4,096 candidates: five launches, and ties that reach from one block into another."""
    for seed in range(2 * SEEDS):
        assert_as_the_reference(prefix_pass(seed, "alloc_t", T, 16))


def test_ties_reach_from_one_program_into_another() -> None:
    weights, ids = torch.full((600, 16), 0.125), torch.arange(16).expand(600, 16)
    for valid in (None, torch.arange(600) % 3 > 0):
        assert_as_the_reference(Pass("alloc_t", {"k": 6.4, "k_base": 1.0}, weights, ids, valid, -1))


@pytest.mark.parametrize("rule", ["refill", "cap"])
def test_groups_of_experts_with_a_bias(rule: str) -> None:
    drawn = (logit_pass(seed, rule, 2, 8) for seed in range(2000))
    grouped = (p for p in drawn if p.scoring.open_groups < p.scoring.groups and p.scoring.bias is not None)
    opening = (p for p in grouped if by_hand.real(p) and float(p.numbers["refill_tokens"]) >= 2 and by_hand.clear(p))
    for offered in itertools.islice(opening, 3):
        assert_as_by_hand(offered.other(rule, k=2.0, pairs=8.0, experts=12.0))


@pytest.mark.parametrize("rule", [rule for rule in PREFIX if rule != "alloc_t"])
def test_rules_of_single_tokens_over_several_programs(rule: str) -> None:
    for seed in range(2 * SEEDS):
        assert_as_the_reference(prefix_pass(seed, rule, 500))


@pytest.mark.parametrize("rule", ["refill", "alloc_t_refill", "cap"])
def test_more_tokens(rule: str) -> None:
    drawn = (logit_pass(seed, rule, 12, 8) for seed in range(100))
    assert_as_by_hand(next(p for p in drawn if p.scoring.groups == 1 and by_hand.clear(p)))


@pytest.mark.parametrize("real", [3, 20])
def test_refill_over_alloc_t_in_a_long_padded_pass(real: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what one program holds its base runs in launches of its own."""
    monkeypatch.setattr("allocmoe.routing.kernels.cuda.WHOLE", 128)
    logits = torch.randn(24, 64, generator=torch.Generator().manual_seed(real))
    ids, weights = routed(logits, Scoring(), 8)
    numbers = {"k": 3.25, "k_base": 1.0, "pairs": 7.0, "refill_tokens": 10.0}
    assert_as_by_hand(Pass("alloc_t_refill", numbers, weights, ids, torch.arange(24) < real, -1, logits))


def test_beyond_the_limit_the_base_runs_alone() -> None:
    for rule, under in (("refill", "top_k"), ("cap", "top_k"), ("alloc_t_refill", "alloc_t")):
        offered = logit_pass(1, rule, 5, 8)
        numbers = {"k": 2.0, "k_base": 1.0, "pairs": 8.0, "refill_tokens": 4.0, "experts": 9.0}
        offered = Pass(rule, numbers, offered.weights, offered.ids.abs(), None, -1, offered.logits)
        assert all(map(torch.equal, run(offered), run(offered.other(under))))


def test_no_token_and_no_expert() -> None:
    empty = Pass(
        "alloc_t", {"k": 1.0, "k_base": 1.0}, torch.empty(0, 4), torch.empty(0, 4, dtype=torch.int32), None, -1
    )
    for rule in ("alloc_t", "top_k"):
        assert run(empty.other(rule))[1].shape[0] == 0
    none = Pass("top_k", {"k": 0.0}, torch.ones(3, 4), torch.zeros(3, 4, dtype=torch.int32), None, -1)
    assert run(none)[0].shape == (3, 0)


def test_what_no_kernel_covers() -> None:
    def answer(weights: Tensor, ids: Tensor, rule: str = "naee", logits: Tensor | None = None) -> object:
        return fused(RULES[rule], {"k": 1.0, "threshold": 0.5, "kept": [1.0] * 600}, Scoring(), weights, ids, None,
                     logits, -1)  # fmt: skip

    ids = torch.zeros(2, 4, dtype=torch.int32)
    assert answer(torch.ones(2, 4), ids) is not None
    assert answer(torch.ones(2, 4).double(), ids) is None
    assert answer(torch.ones(2, 4), ids.short()) is None
    assert answer(torch.ones(2, 17), torch.zeros(2, 17, dtype=torch.int32)) is None
    assert answer(torch.ones(2, 4), ids, "prune") is None
    assert answer(torch.ones(2, 4), ids, "prune", torch.zeros(2, 600)) is None
