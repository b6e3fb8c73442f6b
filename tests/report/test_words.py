"""Numbers in words."""

from __future__ import annotations

from allocmoe.report.words import points, times
from allocmoe.stats import Interval


def test_numbers_are_worded_for_people():
    assert times(Interval(1.5, 1.4, 1.6)) == "1.50\u00d7 (1.40\u20131.60)"
    assert times(Interval(1.01, 0.99, 1.03)) == "1.010\u00d7 (0.990\u20131.030)"
    assert points(Interval(-0.0001, -0.01, 0.01)) == "+0.0 (-1.0 to +1.0)"
