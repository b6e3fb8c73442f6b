"""AdapMoE's rule against its definition in fractions, and the properties that calibration counts on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.routing.adapmoe import EVERY, ONE, adapmoe, cost_of_tail
from allocmoe.routing.top_p import top_p
from allocmoe.routing.xmoe import mass_before
from tests.engines.loops import but_a_cheap_tail
from tests.routing.test_thresholds import dyadic, routed


@settings(deadline=None, max_examples=200)
@given(dyadic(), st.integers(0, 64), st.integers(-2, 64))
def test_it_drops_the_longest_cheap_tail(scores: torch.Tensor, fisher: int, limit: int) -> None:
    numbers = {"fisher": fisher / 32, "threshold": limit / 64}
    count = [but_a_cheap_tail(row, numbers) for row in scores.tolist()]
    assert adapmoe(scores, **numbers).sum(1).tolist() == count


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 50), st.floats(1e-6, 1e3), st.floats(0, 1), st.floats(0.01, 16))
def test_only_shares_and_the_ratio_of_t_to_h_count(seed: int, fisher: float, share: float, scale: float) -> None:
    """Weights may be scaled, renormalised or not: so the rule is not `absolute`."""
    scores = routed(seed, tokens=50)
    keep = adapmoe(scores, fisher, fisher * share)
    assert torch.equal(adapmoe(scores * scale, fisher, fisher * share), keep)
    assert torch.equal(adapmoe(scores, 1.0, share), keep)
    assert keep[:, 0].all()
    assert (keep.int().diff(dim=1) <= 0).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_threshold_keeps_less(seed: int, one: float, other: float) -> None:
    scores, (low, high) = routed(seed, tokens=50), sorted((one, other))
    assert (adapmoe(scores, 1.0, high) <= adapmoe(scores, 1.0, low)).all()


@pytest.mark.parametrize("scores", [routed(seed=4), torch.zeros(3, 4), routed(seed=4, top=1), 16 * routed(seed=5)])
def test_both_ends(scores: torch.Tensor) -> None:
    assert adapmoe(scores.float(), 1e-9, EVERY).all()
    assert (adapmoe(scores.float(), 1e9, ONE).sum(1) == 1).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 50), st.floats(1e-4, 1))
def test_statistics_are_what_the_rules_compare(seed: int, limit: float) -> None:
    scores = routed(seed, tokens=50)
    assert torch.equal(adapmoe(scores, 0.5, limit)[:, 1:], cost_of_tail(scores, {"fisher": 0.5}) > limit)
    assert torch.equal(top_p(scores, limit)[:, 1:], mass_before(scores, {}) <= limit)
