"""Numbers in words, and the reading."""

from __future__ import annotations

import pytest

from allocmoe.records import Record
from allocmoe.report.groups import groups
from allocmoe.report.rows import quality_rows
from allocmoe.report.words import points, times
from allocmoe.stats import Interval
from tests.report.made import one


def test_numbers_are_worded_for_people():
    assert times(Interval(1.5, 1.4, 1.6)) == "1.50\u00d7 (1.40\u20131.60)"
    assert times(Interval(1.01, 0.99, 1.03)) == "1.010\u00d7 (0.990\u20131.030)"
    assert points(Interval(-0.0001, -0.01, 0.01)) == "+0.0 (-1.0 to +1.0)"


@pytest.mark.whole
def test_the_reading_is_computed_from_the_records(text: str, records: list[Record]):
    (group,) = groups(records, "quality")
    row = one(quality_rows(group), "alloc-moe", 24)
    words = text.split('aria-label="Reading"')[1].split("</section>")[0]
    assert "at 50% of the original&#39;s activations (24 per token)" in words
    assert times(row.ratio) in words
    assert "no difference shown" in words
