"""Quality against budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocmoe import stats
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report.groups import groups
from allocmoe.report.results import results, summary
from allocmoe.report.rows import chance, quality_rows
from allocmoe.report.sections.quality import accuracies, blocks, distance, perplexity
from allocmoe.report.style import name
from tests.report.made import GROUPS, plans, quality

pytestmark = pytest.mark.whole


def test_perplexities_and_their_bars_are_those_of_the_records(records: list[Record]):
    (group,) = groups(records, "quality")
    fig = perplexity(quality_rows(group))
    by_name, original = {trace.name: trace for trace in fig.data}, group.originals[""]
    assert {n for n in by_name if not n.endswith(", off the axis")} == {name(m) for m in METHODS}
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


def apart(record: Record) -> Record:
    """With the distance from the original, which grows as the budget shrinks."""
    far = 1 / record.budget - 1 / 48
    each = {"kl": [far * (1 + i / 32) for i in range(32)], "flips": [far * (1 + i % 2) for i in range(32)]}
    return replace(
        record, samples=record.samples | each, metrics=record.metrics | {n: sum(v) / 32 for n, v in each.items()}
    )


def test_the_distance_stands_beside_perplexity_where_it_was_measured():
    made = [apart(quality(*p)) for p in plans("uniform", "alloc-moe")]
    found = results(made)
    assert [b.title.split(":")[0] for b in blocks(found)] == ["Perplexity", "Distance from the original", "Accuracy"]
    (group,) = groups(made, "quality")
    fig = distance(quality_rows(group))
    assert [a.text for a in fig.layout.annotations] == ["KL divergence", "Changed most likely tokens"]
    for number, what in enumerate(("kl", "flips")):
        lines = {t.name: t for t in fig.data if t.yaxis == ("y", "y2")[number]}
        for method in ("original", "uniform", "alloc-moe"):
            mine = [r for r in group.records if r.method == method]
            assert list(lines[name(method)].y) == [r.metrics[what] for r in mine]
            known = stats.mean(mine[-1].samples[what], mine[-1].samples["window_tokens"])
            assert lines[name(method)].error_y.array[-1] == pytest.approx(known.high - known.estimate)
    (entry,) = summary(made)["quality"]
    assert all({"kl", "flips"} <= set(row) for row in entry["results"])


def test_records_without_the_distance_look_as_they_did(records: list[Record]):
    assert "Distance from the original" not in {b.title.split(":")[0] for b in blocks(results(records))}
    assert not any({"kl", "flips"} & set(row) for entry in summary(records)["quality"] for row in entry["results"])
