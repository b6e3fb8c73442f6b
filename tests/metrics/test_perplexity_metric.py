"""Perplexity: its value against the windows' losses, its comparison against a t test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from allocmoe import metrics
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import Measured
from tests.gate.measured import quality

METRIC = metrics.get("perplexity")


def test_the_value_is_that_of_the_losses():
    record = quality("uniform", 64, 0)
    assert METRIC.value([Measured(record)]) == pytest.approx(math.exp(np.mean(record.samples["nll"])))


def test_a_rise_is_told_in_percent_with_the_p_of_a_t_test():
    old = quality("uniform", 64, 0)
    rng = np.random.default_rng(0)
    nll = np.array(old.samples["nll"]) + rng.normal(0.01, 0.02, 32)
    new = replace(old, samples=old.samples | {"nll": nll.tolist()})
    shift = METRIC.compare([Measured(new)], [Measured(old)], 0.05)
    assert METRIC.change(shift.estimate) == pytest.approx(100 * math.expm1(nll.mean() - np.mean(old.samples["nll"])))
    assert shift.p == pytest.approx(scipy_stats.ttest_rel(nll, old.samples["nll"], alternative="greater").pvalue)
    assert METRIC.change(METRIC.limit(2.5)) == pytest.approx(2.5)


def test_other_windows_are_refused():
    old = quality("uniform", 64, 0)
    new = replace(old, samples=old.samples | {"window_tokens": [9] * 32})
    with pytest.raises(AllocMoEError, match="different windows"):
        METRIC.compare([Measured(new)], [Measured(old)], 0.05)


def test_floors_are_above():
    assert METRIC.broken(5.1, 5.0) == "5.1 is above its floor of 5"
    assert METRIC.broken(5.0, 5.0) == ""
    assert METRIC.shown(4.87654) == "4.8765"
