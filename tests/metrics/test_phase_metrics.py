"""Prefill and decode: times over the original's of the same session, against numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from allocmoe import metrics
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import Measured
from tests.gate.measured import session

PHASES = ("prefill", "decode")


def sessions(seed: int, count: int = 4, noise: float = 0.02) -> list[Measured]:
    """Of uniform, each with the original of its session."""
    return [Measured(s[1], s[0]) for s in (session(seed, n, noise) for n in range(count))]


def logs(phase: str, measured: list[Measured]) -> np.ndarray:
    name = f"{phase}_s"
    return np.array([np.median(np.log(np.divide(r.samples[name], o.samples[name]))) for r, o in measured if o])


@pytest.mark.parametrize("phase", PHASES)
def test_values_and_comparisons(phase: str):
    metric, new, old = metrics.get(phase), sessions(1), sessions(0)
    assert metric.value(new[:1]) == pytest.approx(math.exp(logs(phase, new[:1])[0]))
    assert metric.value(new) == pytest.approx(scipy_stats.gmean(np.exp(logs(phase, new))))
    assert metric.figure(metric.value(new)) == pytest.approx(1.3, rel=0.05), "a speedup"
    oracle = scipy_stats.ttest_ind(logs(phase, new), logs(phase, old), equal_var=False, alternative="greater")
    shift = metric.compare(new, old, 0.05)
    assert shift.p == pytest.approx(oracle.pvalue)
    assert shift.low == pytest.approx(oracle.confidence_interval(0.95).low)
    assert metric.change(shift.estimate) == pytest.approx(100 * (metric.value(new) / metric.value(old) - 1))


@pytest.mark.parametrize("phase", PHASES)
def test_the_originals_own_milliseconds(phase: str):
    metric, originals = metrics.get(phase), [m.original for m in sessions(0)]
    own = [np.median(o.samples[f"{phase}_s"]) for o in originals]
    assert metric.own[0](originals) == pytest.approx(1e3 * np.median(own))
    assert metric.own[1](12.345) == "12.35 ms" or metric.own[1](12.345) == "12.34 ms"
    assert metric.shown(1.2345) in ("1.234x", "1.235x")


@pytest.mark.parametrize("phase", PHASES)
def test_a_session_without_the_original_says_nothing(phase: str):
    alone = [Measured(sessions(0)[0].record)]
    with pytest.raises(AllocMoEError, match="did not measure the original"):
        metrics.get(phase).value(alone)
    assert math.isnan(metrics.value(phase, alone))


@pytest.mark.parametrize("phase", PHASES)
def test_a_speedup_has_a_lower_floor(phase: str):
    assert metrics.get(phase).broken(1.1, 1.2) == "1.1 is below its floor of 1.2"
    assert metrics.get(phase).broken(1.2, 1.2) == ""


def test_what_asv_tracks():
    (one,) = sessions(0, 1)
    tracked = {t.name: t.samples for name in PHASES for t in metrics.get(name).tracked if t.name != "distinct_experts"}
    assert tracked["prefill_ms"](one) == [1e3 * s for s in one.record.samples["prefill_s"]]
    assert tracked["decode_ms"](one) == [1e3 * s / 16 for s in one.record.samples["decode_s"]]
    for phase in PHASES:
        assert tracked[f"{phase}_relative"](one) == [100 * metrics.get(phase).value([one])]
