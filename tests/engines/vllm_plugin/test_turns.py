"""Who has which turn, and what the machine's own speed leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.vllm


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 5))
def test_every_place_has_every_plan_once(plans: int, length: int, seed: int) -> None:
    from allocmoe.engines.vllm.turns import designed

    found = designed(plans, length, seed)
    assert found.shape == (plans, length)
    assert (np.sort(found, axis=0) == np.arange(plans)[:, None]).all()
    assert (found == designed(plans, length, seed)).all()
    if plans > 4 and length > 4:
        assert (found != designed(plans, length, seed + 1)).any()


@pytest.mark.parametrize("plans", [2, 13, 34])
def test_what_a_slow_second_adds_is_taken_out(plans: int) -> None:
    """Generations of a machine that is up to twice as slow in some: the plans' true times come back."""
    from allocmoe.engines.vllm.turns import designed, evened

    rng = np.random.default_rng(3)
    turns = designed(plans, 17, 0)
    own = 0.05 * (1 + np.arange(plans) / plans)
    place = np.r_[5.0, np.linspace(1, 1.1, 16)]
    slow = rng.uniform(1, 2, (plans, 1))
    clean = own[turns] * place
    noisy = clean * slow * rng.lognormal(0, 0.01, turns.shape)
    even = evened(noisy, turns)
    sums = {name: np.array([t[:, 1:][turns[:, 1:] == i].sum() for i in range(plans)])
            for name, t in (("clean", clean), ("noisy", noisy), ("even", even))}  # fmt: skip

    def error(name: str) -> float:
        ratio = np.log(sums[name] / sums["clean"])
        return float(np.abs(ratio - ratio.mean()).max())

    assert error("even") < 0.02
    assert plans == 2 or error("noisy") > 2 * error("even")
    assert np.exp(np.log(even / noisy).mean()) == pytest.approx(1), "the machine's mean speed stays"
