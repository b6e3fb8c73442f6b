"""Alloc-T against brute force, scipy's integer programmes and a sort in plain python."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from allocmoe.errors import AllocMoEError
from allocmoe.routing.alloc_t import alloc_t
from allocmoe.routing.top_k import top_k

SHARES = [Fraction(7, 2), Fraction(5, 2), Fraction(25, 4), Fraction(10, 3), Fraction(29, 7), Fraction(23, 10)]


def routed(tokens: int, top: int, seed: int, experts: int = 16) -> torch.Tensor:
    """Full-softmax scores of the top candidates, [tokens, top], as a router gives them."""
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)) * 2
    return logits.softmax(-1).sort(dim=-1, descending=True).values[:, :top]


@st.composite
def tied(draw: st.DrawFn, tokens: int = 6, top: int = 5, levels: int = 4) -> torch.Tensor:
    """Sorted scores of few levels, whole multiples of 1/8: sums are exact and ties everywhere, as in bf16."""
    t, k = draw(st.integers(1, tokens)), draw(st.integers(1, top))
    row = st.lists(st.integers(0, levels), min_size=k, max_size=k).map(lambda r: sorted(r, reverse=True))
    return torch.tensor(draw(st.lists(row, min_size=t, max_size=t))).float() / 8


def budgets(top: int) -> st.SearchStrategy[Fraction]:
    return st.integers(1, 12).flatmap(lambda d: st.integers(0, top * d).map(lambda n: Fraction(n, d)))


def by_hand(scores: torch.Tensor, budget: Fraction, k_base: int) -> torch.Tensor:
    """The definition in plain python: ties to the better score, then the earlier token, then the higher rank."""
    tokens, top = scores.shape
    base = min(k_base, math.floor(budget))
    rest = sorted((-float(scores[t, j]), t, j) for t in range(tokens) for j in range(base, top))
    keep = torch.zeros(tokens, top, dtype=torch.bool)
    keep[:, :base] = True
    for _, t, j in rest[: math.floor(budget * tokens) - base * tokens]:
        keep[t, j] = True
    return keep


def kept_weight(scores: torch.Tensor, keep: torch.Tensor) -> float:
    return float(scores.double()[keep].sum())


@settings(deadline=None, max_examples=60)
@given(tied(tokens=3, top=3, levels=6), st.data())
def test_kept_weight_is_the_optimum_by_brute_force(scores: torch.Tensor, data: st.DataObject) -> None:
    """eq. 8-10: the most weight under `sum x <= k T` and at least k_base per token, over all 2^(TK) masks."""
    tokens, top = scores.shape
    budget, k_base = data.draw(budgets(top)), data.draw(st.integers(0, top))
    base = min(k_base, math.floor(budget))
    masks = np.array(list(itertools.product([0, 1], repeat=tokens * top))).reshape(-1, tokens, top)
    allowed = (masks.sum((1, 2)) <= math.floor(budget * tokens)) & (masks.sum(2) >= base).all(1)
    best = (masks[allowed] * scores.numpy()).sum((1, 2)).max()
    keep = alloc_t(scores, float(budget), k_base)
    assert kept_weight(scores, keep) == best
    assert (keep.sum(1) >= base).all()


@pytest.mark.parametrize(("budget", "k_base"), [(3.5, 0), (2.5, 1), (6.25, 1), (4, 2), (3.5, 3), (1, 1)])
def test_kept_weight_is_the_optimum_of_the_integer_programme(budget: float, k_base: int) -> None:
    tokens, top = 24, 8
    scores = routed(tokens, top, seed=int(budget * 4) + k_base).double()
    rows = np.kron(np.eye(tokens), np.ones(top))
    best = milp(
        -scores.flatten().numpy(),
        integrality=np.ones(tokens * top),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(np.ones((1, tokens * top)), 0, budget * tokens),
            LinearConstraint(rows, k_base, top),
        ],
        options={"mip_rel_gap": 0},
    )
    assert best.success
    assert kept_weight(scores, alloc_t(scores, budget, k_base)) == pytest.approx(-best.fun, rel=1e-12)


@settings(deadline=None, max_examples=150)
@given(tied(), st.data())
def test_equals_the_definition_with_every_tie(scores: torch.Tensor, data: st.DataObject) -> None:
    budget, k_base = data.draw(budgets(scores.shape[1])), data.draw(st.integers(0, 6))
    keep = alloc_t(scores, float(budget), k_base)
    assert torch.equal(keep, by_hand(scores, budget, k_base))
    assert torch.equal(keep, alloc_t(scores.clone(), float(budget), k_base))


def test_equals_the_definition_in_bf16() -> None:
    scores = routed(1000, 8, seed=1).bfloat16()
    assert scores.unique().numel() < scores.numel() / 5, "not tied enough to mean anything"
    for share in SHARES:
        assert torch.equal(alloc_t(scores, float(share)), by_hand(scores, share, 1))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.integers(1, 8), st.data())
def test_kept_count_is_exactly_the_floor(tokens: int, top: int, data: st.DataObject) -> None:
    budget = data.draw(budgets(top))
    keep = alloc_t(routed(tokens, top, seed=tokens), float(budget))
    assert int(keep.sum()) == math.floor(budget * tokens)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 60, 256, 1000])
def test_fractional_budgets_are_spent_to_the_last_expert(share: Fraction, tokens: int) -> None:
    scores, expected = routed(tokens, 8, seed=2), math.floor(share * tokens)
    assert int(alloc_t(scores, float(share)).sum()) == expected
    assert int(alloc_t(scores, float(share), valid=torch.ones(tokens, dtype=torch.bool)).sum()) == expected


@pytest.mark.parametrize(
    ("budget", "layers", "tokens"),
    [(26, 24, 108), (30, 26, 13), (54, 49, 49), (55, 49, 98), (119, 40, 200_001)],
)
def test_a_mean_in_floating_point_neither_loses_nor_gains_an_expert(budget: int, layers: int, tokens: int) -> None:
    """B / L, as a plan carries it, times T may land just below a whole number; or round up to one in float32."""
    scores, expected = torch.linspace(1, 0, tokens * 5).view(tokens, 5), budget * tokens // layers
    assert int(alloc_t(scores, budget / layers).sum()) == expected
    assert int(alloc_t(scores, budget / layers, valid=torch.ones(tokens, dtype=torch.bool)).sum()) == expected


@settings(deadline=None, max_examples=60)
@given(tied(), st.integers(0, 5), st.data())
def test_rows_are_prefixes(scores: torch.Tensor, k_base: int, data: st.DataObject) -> None:
    keep = alloc_t(scores, float(data.draw(budgets(scores.shape[1]))), k_base).int()
    assert (keep.diff(dim=1) <= 0).all()


@settings(deadline=None, max_examples=50)
@given(tied(), st.data())
def test_one_token_or_a_large_k_base_is_top_k(scores: torch.Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, scores.shape[1]))
    for token in scores:
        assert torch.equal(alloc_t(token[None], k), top_k(token[None], k))
    for k_base in (k, k + 1, 99):
        assert torch.equal(alloc_t(scores, k, k_base), top_k(scores, k))
        everyone = torch.ones(len(scores), dtype=torch.bool)
        assert torch.equal(alloc_t(scores, k, k_base, everyone), top_k(scores, k))


def test_it_does_move_experts_between_tokens() -> None:
    """Else all of the above could be top-k."""
    scores = torch.tensor([[0.9, 0.02, 0.01], [0.4, 0.3, 0.2]])
    assert alloc_t(scores, 2).tolist() == [[True, False, False], [True, True, True]]


@settings(deadline=None, max_examples=150)
@given(tied(), st.data())
def test_padding_neither_gets_nor_takes(scores: torch.Tensor, data: st.DataObject) -> None:
    """Wherever padding lies and whatever it scores, real tokens fare as if it were not there."""
    top = scores.shape[1]
    budget, k_base = data.draw(budgets(top)), data.draw(st.integers(0, 5))
    valid = torch.tensor(data.draw(st.permutations([True] * len(scores) + [False] * data.draw(st.integers(0, 6)))))
    junk = st.sampled_from([0.0, 0.25, 1.0, 1e30, -1.0, math.inf, -math.inf, math.nan])
    rows = data.draw(st.lists(junk, min_size=len(valid) * top, max_size=len(valid) * top))
    padded = torch.tensor(rows).view(len(valid), top)
    padded[valid] = scores
    keep = alloc_t(padded, float(budget), k_base, valid)
    assert not keep[~valid].any()
    assert torch.equal(keep[valid], alloc_t(scores, float(budget), k_base))


@pytest.mark.parametrize("budget", [0, 1, 2.5, 4])
@pytest.mark.parametrize("k_base", [0, 1, 4])
def test_all_padding_keeps_nothing(budget: float, k_base: int) -> None:
    keep = alloc_t(torch.rand(5, 4), budget, k_base, torch.zeros(5, dtype=torch.bool))
    assert keep.shape == (5, 4)
    assert not keep.any()


def test_no_tokens_at_all() -> None:
    assert alloc_t(torch.zeros(0, 4), 2.5).shape == (0, 4)
    assert alloc_t(torch.zeros(0, 4), 2.5, valid=torch.zeros(0, dtype=torch.bool)).shape == (0, 4)


def test_scores_are_left_alone() -> None:
    scores, valid = routed(6, 4, seed=3), torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    before = scores.clone()
    alloc_t(scores, 2.5, valid=valid)
    assert torch.equal(scores, before)


def test_one_graph_with_padding() -> None:
    """The mask must not be read back to the host: a captured decode step allows no break."""
    compiled = torch.compile(alloc_t, fullgraph=True, backend="eager")
    scores = routed(9, 4, seed=4)
    for valid in (torch.arange(9) < 6, torch.arange(9) % 2 == 0):
        assert torch.equal(compiled(scores, 2.5, 1, valid), alloc_t(scores, 2.5, 1, valid))


@pytest.mark.parametrize(
    ("budget", "k_base"), [(-0.5, 1), (4.5, 1), (math.nan, 1), (math.inf, 1), (-math.inf, 1), (2, -1)]
)
def test_refusals_are_one_line(budget: float, k_base: int) -> None:
    with pytest.raises(AllocMoEError) as caught:
        alloc_t(torch.rand(3, 4), budget, k_base)
    assert "\n" not in str(caught.value)
