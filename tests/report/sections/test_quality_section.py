"""Quality against budget."""

from __future__ import annotations

import pytest

from allocmoe import stats
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report.groups import groups
from allocmoe.report.rows import chance, quality_rows
from allocmoe.report.sections.quality import accuracies, perplexity
from allocmoe.report.style import name
from tests.report.made import GROUPS


def test_perplexities_and_their_bars_are_those_of_the_records(records: list[Record]):
    (group,) = groups(records, "quality")
    fig = perplexity(quality_rows(group))
    by_name, original = {trace.name: trace for trace in fig.data}, group.originals[""]
    assert set(by_name) == {name(m) for m in METHODS}
    for method in ("uniform", "alloc-moe"):
        mine = [r for r in group.records if r.method == method]
        assert list(by_name[name(method)].y) == [r.metrics["perplexity"] for r in mine]
        last = mine[-1]
        nll = [r.samples["nll"] for r in (last, original)]
        known = stats.perplexity_ratio(*nll, last.samples["window_tokens"])
        bar = by_name[name(method)].error_y.array[-1]
        assert bar == pytest.approx(original.metrics["perplexity"] * (known.high - known.estimate))
    assert fig.layout.shapes[0].y0 == original.metrics["perplexity"]


def test_accuracies_come_with_chance(records: list[Record]):
    (group,) = groups(records, "quality")
    fig = accuracies(quality_rows(group), chance(group))
    assert [shape.y0 for shape in fig.layout.shapes] == pytest.approx([5 / 12, 1 / 4, 1 / 3, 1 / 3])
    assert [a.text for a in fig.layout.annotations] == ["NLU", "Reasoning", "Math", "Mean of the groups"]
    star = [trace for trace in fig.data if trace.name == "original"]
    assert [trace.y[0] for trace in star] == [group.originals[""].metrics[f"group/{g}"] for g in (*GROUPS, "mean")]
