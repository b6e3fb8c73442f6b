"""What the sections' figures share."""

from __future__ import annotations

import pytest

from allocmoe.report import figures
from allocmoe.stats import Interval


@pytest.mark.parametrize("count", [2, 10, 28])
def test_methods_stand_apart_but_nearer_to_their_budget_than_to_the_next(count: int):
    value = Interval(2.0, 1.5, 3.0)
    series = {f"m{n:02}": [(10.0, value), (20.0, value)] for n in range(count)}
    fig = figures.panels([figures.Panel("", series, [], {})], {}, 400)
    first = [trace.x[0] for trace in fig.data]
    assert len(set(first)) == count
    assert all(abs(x - 10) < 2 for x in first)
    assert {(t.error_y.array[0], t.error_y.arrayminus[0]) for t in fig.data} == {(1.0, 0.5)}


@pytest.mark.parametrize(("values", "kind"), [([4.0, 5.0], None), ([4.0, 13.0], "log"), ([float("nan")], None)])
def test_perplexities_that_differ_widely_stand_on_a_logarithmic_axis(values: list[float], kind: str | None):
    assert figures.perplexity_axis(values).get("type") == kind
