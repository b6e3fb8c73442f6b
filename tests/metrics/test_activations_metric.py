"""Activations are counted: compared as they are, without a test."""

from __future__ import annotations

import math

import pytest

from allocmoe import metrics
from allocmoe.metrics import Measured
from tests.gate.measured import made

METRIC = metrics.get("activations")


def spent(count: float) -> list[Measured]:
    return [Measured(made("quality", "uniform", 64, setup={}, spent={"per_token": count}))]


def test_a_change_is_exact():
    shift = METRIC.compare(spent(66.0), spent(60.0), 0.05)
    assert METRIC.change(shift.estimate) == METRIC.change(shift.high) == pytest.approx(10.0)
    assert math.isnan(shift.p)
    assert METRIC.value(spent(66.0)) == 66.0
    assert not METRIC.has(made("quality", "uniform", 64, setup={}, spent={}))


def test_more_than_the_floor_is_too_much():
    assert METRIC.broken(65.0, 64.0) == "65 is above its floor of 64"
    assert METRIC.broken(64.0, 64.0) == ""
    assert METRIC.shown(64.0) == "64.00"
