"""Top-k, top-P and NAEE against their definitions as plain loops; calibration against the budget."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.errors import AllocMoEError
from allocmoe.routing.naee import beta_for, naee
from allocmoe.routing.threshold import at_least, steps
from allocmoe.routing.threshold import threshold_for as score_for
from allocmoe.routing.top_k import top_k
from allocmoe.routing.top_p import threshold_for, top_p

TOKENS, TOP, EXPERTS = 600, 6, 24


def routed(seed: int, tokens: int = TOKENS, top: int = TOP, experts: int = EXPERTS) -> torch.Tensor:
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)) * 1.5
    return logits.double().softmax(-1).sort(dim=-1, descending=True).values[:, :top]


@st.composite
def dyadic(draw: st.DrawFn) -> torch.Tensor:
    """Sorted scores in whole 64ths, the first a power of two or zero: sums and ratios are exact."""
    top = draw(st.integers(1, 6))
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        first = draw(st.sampled_from([0, 1, 4, 16, 32]))
        rest = draw(st.lists(st.integers(0, first), min_size=top - 1, max_size=top - 1))
        rows.append([first, *sorted(rest, reverse=True)])
    return torch.tensor(rows).float() / 64


def top_p_by_hand(row: list[float], threshold: float) -> list[bool]:
    """In order, up to and including the first at which the cumulative score exceeds P."""
    kept, so_far = 0, 0.0
    for score in row:
        kept, so_far = kept + 1, so_far + score
        if so_far > threshold:
            break
    return [j < kept for j in range(len(row))]


def naee_by_hand(row: list[float], beta: float) -> list[bool]:
    """Rank 1 always; a later rank unless its score is below beta times the first."""
    return [j == 0 or not score < beta * row[0] for j, score in enumerate(row)]


@settings(deadline=None, max_examples=150)
@given(dyadic(), st.integers(-4, 80))
def test_top_p_is_its_definition(scores: torch.Tensor, step: int) -> None:
    threshold = step / 64
    assert top_p(scores, threshold).tolist() == [top_p_by_hand(row, threshold) for row in scores.tolist()]


@settings(deadline=None, max_examples=150)
@given(dyadic().filter(lambda s: bool((s[:, 0] > 0).all())), st.integers(0, 40))
def test_naee_is_its_definition(scores: torch.Tensor, step: int) -> None:
    beta = step / 32
    assert naee(scores, beta).tolist() == [naee_by_hand(row, beta) for row in scores.tolist()]


@settings(deadline=None, max_examples=150)
@given(dyadic(), st.integers(-4, 80), st.integers(0, 7))
def test_a_score_s_threshold_is_its_definition(scores: torch.Tensor, step: int, k_base: int) -> None:
    threshold = step / 64
    wanted = [[j < k_base or score >= threshold for j, score in enumerate(row)] for row in scores.tolist()]
    assert at_least(scores, threshold, k_base).tolist() == wanted


def test_steps_go_from_one_expert_to_all() -> None:
    assert steps(1) == [1.0]
    assert steps(3) == [1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize("value", [0.03, 0.2, 0.35, 0.5, 0.8])
def test_both_are_their_definitions_on_routed_scores(value: float) -> None:
    scores = routed(seed=0)
    assert top_p(scores, value).tolist() == [top_p_by_hand(row, value) for row in scores.tolist()]
    assert naee(scores, value).tolist() == [naee_by_hand(row, value) for row in scores.tolist()]


def test_naee_on_a_row_of_zeros_keeps_all_or_one() -> None:
    zeros = torch.zeros(1, 4)
    assert naee(zeros, 0.5).all()
    assert naee(zeros, 2.0).tolist() == [[True, False, False, False]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 50), st.floats(1, TOP), st.booleans())
def test_calibration_spends_k_per_token(seed: int, k: float, whole: bool) -> None:
    k, scores = float(round(k)) if whole else k, routed(seed)
    assert top_p(scores, threshold_for(scores, k)).sum().item() / TOKENS == pytest.approx(k, rel=0.01)
    assert naee(scores, beta_for(scores, k)).sum().item() / TOKENS == pytest.approx(k, rel=0.01)
    assert at_least(scores, score_for(scores, k)).sum().item() / TOKENS == pytest.approx(k, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [2, 3.5, 5])
def test_calibration_at_the_precision_of_a_router(dtype: torch.dtype, k: float) -> None:
    """In bf16 ties sit on the quantile, so only float32 is held to 1 %; both are the same on other tokens."""
    near, fresh = routed(1, 4000).to(dtype), routed(2, 4000).to(dtype)
    tolerance = 0.01 if dtype == torch.float32 else 0.06
    for rule, calibrate in ((top_p, threshold_for), (naee, beta_for), (at_least, score_for)):
        setting = calibrate(near, k)
        assert rule(near, setting).sum().item() / 4000 == pytest.approx(k, rel=tolerance)
        assert rule(fresh, setting).sum().item() / 4000 == pytest.approx(k, rel=tolerance + 0.03)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 50), st.floats(1, TOP), st.floats(1, TOP))
def test_calibration_is_monotone_in_k(seed: int, one: float, other: float) -> None:
    scores, (less, more) = routed(seed, tokens=100), sorted((one, other))
    assert threshold_for(scores, less) <= threshold_for(scores, more)
    assert beta_for(scores, less) >= beta_for(scores, more)
    assert score_for(scores, less) >= score_for(scores, more)


@pytest.mark.parametrize(("rule", "calibrate"), [(top_p, threshold_for), (naee, beta_for), (at_least, score_for)])
def test_calibration_at_both_ends(rule: object, calibrate: object) -> None:
    scores = routed(seed=3)
    for k in (1, TOP):
        assert torch.equal(rule(scores, calibrate(scores, k)), top_k(scores, k))  # type: ignore[operator]


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.3, 1.0, 2.0])
def test_a_single_candidate_is_always_kept(value: float) -> None:
    scores = routed(seed=4, top=1)
    for rule, calibrate in ((top_p, threshold_for), (naee, beta_for), (at_least, score_for)):
        assert rule(scores, value).all()
        assert rule(scores, calibrate(scores, 1)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 50), st.floats(-0.1, 1.1))
def test_rows_are_prefixes(seed: int, value: float) -> None:
    scores = routed(seed, tokens=50)
    for rule in (top_p, naee, at_least):
        keep = rule(scores, value)
        assert keep[:, 0].all()
        assert (keep.int().diff(dim=1) <= 0).all()


@pytest.mark.parametrize("k", range(5))
def test_top_k_keeps_the_first_k(k: int) -> None:
    assert top_k(torch.rand(3, 4), k).tolist() == [[j < k for j in range(4)]] * 3


@pytest.mark.parametrize("k", [-1, 5, 2.5, math.nan, math.inf])
def test_top_k_refuses_in_one_line(k: float) -> None:
    with pytest.raises(AllocMoEError) as caught:
        top_k(torch.rand(3, 4), k)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
