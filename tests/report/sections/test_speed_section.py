"""Speedup against budget."""

from __future__ import annotations

from dataclasses import replace

from allocmoe import stats
from allocmoe.report import page
from allocmoe.report.results import results
from allocmoe.report.sections import speed as section
from tests.report.made import BUDGETS, WHOLE, onto, plans, said, speed


def test_the_lines_are_the_paired_speedups_of_the_records():
    timed = [speed(*p) for p in plans("uniform")]
    (block,) = section.blocks(results(timed))
    first = block.figure.data[1]  # of prefill: original, then uniform
    bases, runs = timed[0].samples["prefill_s"], [r.samples["prefill_s"] for r in timed[1:]]
    wanted = [stats.log_ratio(bases, run).estimate for run in runs]
    assert first.name == "uniform"
    assert sorted(first.y) == sorted(wanted)
    assert len(first.x) == len(BUDGETS)
    assert max(first.x) < 1.01 * max(BUDGETS) / WHOLE
    assert block.facts == {"rounds": 10, "owner": ""}


def test_without_the_original_there_is_no_speedup_to_draw():
    alone = [replace(r, setup=r.setup | {"session": "two"}) for r in (speed(*p) for p in plans("uniform")[1:])]
    assert list(section.blocks(results(alone))) == []


def test_a_transplanted_plan_is_told_by_its_shape_and_whose_it_is():
    (block,) = section.blocks(results([onto(speed(*p)) for p in plans("uniform")]))
    assert block.title == "olmoe-wide (random weights) · transformers"
    words = said(page.render([onto(speed(*p)) for p in plans("uniform")], "Wide"), "speed")
    assert "The plans are those of mini-olmoe, transplanted layer by layer onto this shape" in words
    assert "transplanted" not in said(page.render([speed(*p) for p in plans("uniform")], "Own"), "speed")
