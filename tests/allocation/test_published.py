"""What published costs predict, against layers added up one by one."""

from __future__ import annotations

import pytest

from allocmoe.allocation.cost import Cost
from allocmoe.allocation.published import OEA_H100, predicted_speedup
from allocmoe.errors import AllocMoEError

WHOLE, TOUCHED = [40.0, 41.5, 38.25], [12.0, 30.5, 20.0]


def test_the_prediction_is_the_ratio_of_the_layers_times():
    slow = fast = 0.0
    for before, after in zip(WHOLE, TOUCHED, strict=True):
        slow += 33.9 + 2.908 * before
        fast += 33.9 + 2.908 * after
    assert predicted_speedup(WHOLE, TOUCHED) == pytest.approx(slow / fast, rel=1e-12)
    assert OEA_H100.pairs == 0, "at decode pairs cost next to nothing on a GPU"


def test_equal_counts_gain_nothing_and_bytes_alone_bound_it():
    assert predicted_speedup(WHOLE, WHOLE) == 1
    bound = predicted_speedup(WHOLE, TOUCHED, Cost(distinct=1.0))
    assert 1 < predicted_speedup(WHOLE, TOUCHED) < bound == pytest.approx(sum(WHOLE) / sum(TOUCHED))


@pytest.mark.parametrize("touched", [[], [1.0, 2.0]])
def test_layers_that_do_not_pair_up_are_refused(touched: list[float]):
    with pytest.raises(AllocMoEError, match="as many layers on both sides, got 3 and"):
        predicted_speedup(WHOLE, touched)
    with pytest.raises(AllocMoEError, match="got 0 and 0"):
        predicted_speedup([], [])
