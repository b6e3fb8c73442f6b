"""Speed against quality: only honest pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocmoe.records import Record
from allocmoe.report import page
from allocmoe.report.pairs import pairs
from allocmoe.report.results import results
from allocmoe.report.sections import plane
from tests.report.made import elsewhere, onto, plans, quality, said, speed

pytestmark = pytest.mark.whole

FEW = plans("uniform", "alloc-moe")
QUALITY = [quality(*p) for p in FEW]


def paired(timed: list[Record]) -> list[tuple]:
    found = results([*QUALITY, *timed])
    return [pair for s in found.speed for pair in pairs(found.quality[0], s)]


def test_a_plan_timed_on_the_model_itself_is_one_point():
    pairs = paired([speed(*p) for p in FEW])
    assert len(pairs) == len(FEW)
    for q, s in pairs:
        assert (q.method, q.budget) == (s.method, s.budget)
        assert s.metrics == speed(q.method, q.budget).metrics
        assert q.perplexity == quality(q.method, q.budget).metrics["perplexity"]


def test_a_transplanted_plan_is_one_point_and_the_original_too():
    pairs = paired([onto(speed(*p)) for p in FEW])
    assert {(q.method, q.budget) for q, _ in pairs} == set(FEW)


@pytest.mark.parametrize("dishonest", [
    elsewhere,
    lambda r: replace(r, plan="another"),
    lambda r: replace(r, plan=None),
    lambda r: replace(onto(r), details=r.details),
    lambda r: replace(onto(r), details=onto(r).details | {"layers": [1.0] * 4}),
    lambda r: replace(onto(r), details=onto(r).details | {"original_budget": 32}),
    lambda r: onto(replace(r, plan="another")),
    lambda r: onto(replace(r, fingerprint="0" * 16)),
])  # fmt: skip
def test_another_plan_shape_or_model_is_no_point(dishonest):
    assert paired([dishonest(speed(*p)) for p in FEW]) == []


def test_records_without_a_plan_do_not_pair():
    found = results([replace(r, plan=None) for r in [*QUALITY, *(speed(*p) for p in FEW)]])
    assert pairs(found.quality[0], found.speed[0]) == []


def test_the_table_has_every_plan_with_what_it_costs_and_loses():
    found = results([*QUALITY, *(speed(*p) for p in FEW)])
    (block,) = plane.blocks(found)
    assert (block.figure, block.model, block.facts["plane"]) == (None, "mini-olmoe", "mini-olmoe")
    header, by = list(block.table.header), {(r.method, r.budget): r.cells for r in block.table.rows}
    assert set(by) == set(FEW)
    timed = {(row.method, row.budget): row for row in found.speed[0].rows}
    for row in found.quality[0].rows:
        cells = dict(zip(header, by[row.method, row.budget], strict=True))
        assert cells["perplexity lost, %"].value == pytest.approx(100 * (row.ratio.estimate - 1))
        assert cells["accuracy, Mean of the groups, %"].value == pytest.approx(100 * row.accuracy["mean"].estimate)
        assert cells["decode speed"].value == timed[row.method, row.budget].decode.estimate
        assert cells["activations per token"].value == row.spent


def test_the_caption_says_which_of_the_two_it_is():
    own = said(page.render([*QUALITY, *(speed(*p) for p in FEW)], "Own", ["plane"]), "plane")
    assert "both measured on the model itself" in own
    assert "transplanted" not in own
    wide = said(page.render([*QUALITY, *(onto(speed(*p)) for p in FEW)], "Wide", ["plane"]), "plane")
    assert "its speed on olmoe-wide (random weights) · transformers, onto which the plans of mini-olmoe were" in wide
    assert "the model itself" not in wide


def test_without_an_honest_pair_there_are_words_and_no_speed():
    for timed, words in (
        ([elsewhere(speed(*p)) for p in FEW], "was measured on another shape"),
        ([replace(speed(*p), plan="another") for p in FEW], "Fewer than two of the plans"),
    ):
        found = results([*QUALITY, *timed])
        (choice,) = found.choices
        assert set(choice.about["costs"]) == {"activations"}
        assert not any(set(p["costs"]) - {"activations"} for p in choice.about["points"])
        assert words in said(page.render([*QUALITY, *timed], "Apart", ["plane"]), "plane")
