"""Analyses as sections read them: what may stand in one table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocmoe import stats
from allocmoe.report import by_budget
from allocmoe.report.results import results
from allocmoe.report.studied import base, compared, named, parts, tabled
from tests.report import analysed
from tests.report.made import plans, quality

pytestmark = pytest.mark.whole


def test_a_table_takes_plans_of_the_same_conditions_alone() -> None:
    found = [*analysed.methods(), *analysed.k_base()]
    (study,) = tabled(results(found), "k_base")
    assert study.shape == (26, 6)
    assert study.budgets == list(analysed.BUDGETS)
    assert {row: {r.plan for r in places.values()} for row, places in study.rows.items()} == {
        "0": {f"k0-{b}" for b in analysed.BUDGETS},
        "1": {f"alloc-t-{b}" for b in analysed.BUDGETS},
        "5": {f"uniform-{b}" for b in analysed.BUDGETS},
    }
    elsewhere = [
        replace(r, environment={**r.environment, "cores": 2}) if r.method == "uniform" else r for r in found
    ]  # fmt: skip
    (study,) = tabled(results(elsewhere), "k_base")
    assert study.rows["5"] == {}
    without = [r for r in found if r.method != "original"]
    assert not list(tabled(results(without), "k_base"))


def test_records_of_analyses_stay_out_of_the_comparison_of_methods() -> None:
    whole = [*analysed.methods(), *analysed.k_base()]
    (q,) = results(whole).quality
    assert [r.plan for r in q.group.records] == [r.plan for r in results(analysed.methods()).quality[0].group.records]


def test_names_and_conditions() -> None:
    one, other = analysed.k_base()[0], analysed.methods()[0]
    assert (named(one), named(other), named(replace(one, setup={}))) == ("k_base", "", "")
    assert base(one) == base(other)
    assert base(one) != base(replace(other, fingerprint="f" * 16))
    sizes = results([*analysed.methods(), *analysed.batches()])
    assert len(list(parts(sizes, "batch"))) == 2
    assert len(list(parts(sizes, "batch", "text_batch"))) == 1


def test_methods_are_compared_where_two_were_measured() -> None:
    found = results([*analysed.methods(), *(quality(*p) for p in plans("uniform"))])
    assert [s.label for s in compared(found, ("uniform", "alloc-moe"))] == [analysed.LABEL]
    assert {s.label for s in compared(found, ("uniform", "original"))} > {analysed.LABEL}


def test_the_facts_are_the_ratios_and_the_paper_s_numbers_stand_beside() -> None:
    (study,) = tabled(results([*analysed.methods(), *analysed.k_base()]), "k_base")
    facts = by_budget.facts(study, "k_base", "Table 2", "k_base", "")
    rows = {row["label"]: row for row in facts["rows"]}
    assert list(rows) == ["0", "1", "5", "2", "3", "4"], "measured rows, then those of the paper alone"
    assert facts["theirs"] == [130, 104, 78, 52]
    assert rows["0"]["theirs"] == ["46.09", "45.99", "45.36", "42.68"]
    assert rows["2"]["cells"] == [(by_budget.DASH, False)] * 4
    for label, place in (("0", "k0"), ("1", "alloc-t"), ("5", "uniform")):
        for budget, (cell, best) in zip(analysed.BUDGETS, rows[label]["cells"], strict=True):
            mine = study.rows[label][budget]
            assert mine.plan == f"{place}-{budget}"
            rise = mine.metrics["perplexity"] / study.original.metrics["perplexity"] - 1
            gain = 100 * (mine.metrics["group/mean"] - study.original.metrics["group/mean"])
            assert cell == f"{rise:+.1%}, {gain:+.1f}"
            assert best == (label == "0")


def test_the_figure_draws_the_ratios_with_their_intervals() -> None:
    (study,) = tabled(results([*analysed.methods(), *analysed.k_base()]), "k_base")
    traces = {(t.name, t.xaxis): t for t in by_budget.figure(study).data}
    assert len(traces) == 6
    line = traces["0", "x"]
    assert list(line.x) == sorted(analysed.BUDGETS)
    for i, budget in enumerate(sorted(analysed.BUDGETS)):
        mine = study.rows["0"][budget].samples
        wanted = stats.perplexity_ratio(mine["nll"], study.original.samples["nll"], mine["window_tokens"])
        assert line.y[i] == pytest.approx(wanted.estimate)
        assert line.error_y.array[i] == pytest.approx(wanted.high - wanted.estimate)
    assert traces["0", "x2"].y[0] == pytest.approx(100 * (32 - 36) / 40)
