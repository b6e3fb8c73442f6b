"""Verdicts: the matrix of methods, and Alloc-MoE's in numbers."""

from __future__ import annotations

import pytest

from allocmoe.report.compare import matrix
from allocmoe.report.groups import groups
from allocmoe.report.page import render
from allocmoe.report.results import results
from allocmoe.report.sections import verdicts
from allocmoe.stats import holm
from tests.report.made import BUDGETS, plans, quality, said
from tests.report.quoted import diverging

pytestmark = pytest.mark.whole

NAMES = ("uniform", "ascending", "alloc-t", "alloc-moe")
MADE = [quality(*p) for p in plans(*NAMES)]


def test_the_matrix_is_that_of_all_pairs_and_turns_over_its_diagonal():
    (block,) = verdicts.blocks(results(MADE))
    compared = matrix(groups(MADE, "quality")[0], 24)
    assert block.facts["budget"] == 24
    assert block.facts["methods"] == ["original", *NAMES]
    assert block.facts["pairs"] == 10
    perplexity, accuracy = block.facts["matrices"]
    turned = {"better": "worse", "worse": "better", "~": "~", "self": "self"}
    for shown, what in ((perplexity, "perplexity"), (accuracy, "accuracy")):
        cells = {(m, other): verdict for m, row in shown["rows"] for other, verdict, _ in row}
        assert len(cells) == 25
        for (a, b), verdict in cells.items():
            assert cells[b, a] == turned[verdict]
            assert verdict == ("self" if a == b else getattr(compared[a, b], what))
    assert {v for _, row in perplexity["rows"] for _, v, _ in row} >= {"better", "worse", "self"}


def test_divergences_have_a_matrix_where_records_hold_them():
    apart = {"original": 0.0, "uniform": 0.05, "alloc-moe": 0.04}
    (block,) = verdicts.blocks(results([diverging(m, 48 if m == "original" else 24, kl) for m, kl in apart.items()]))
    (shown,) = [m for m in block.facts["matrices"] if m["title"] == "KL divergence at 24"]
    cells = {(m, other): (verdict, text) for m, row in shown["rows"] for other, verdict, text in row}
    assert {pair: v for pair, (v, _) in cells.items()} == {
        (a, b): "self" if a == b else "better" if apart[a] < apart[b] else "worse" for a in apart for b in apart
    }
    assert cells["alloc-moe", "uniform"][1] == "Alloc-MoE against uniform: -0.0100 (-0.0100 to -0.0100) nats a token"


def test_p_is_corrected_over_the_pairs_once():
    compared = matrix(groups(MADE, "quality")[0], 24)
    upper = [c for (a, b), c in compared.items() if ["original", *NAMES].index(a) < ["original", *NAMES].index(b)]
    assert len(upper) == 10
    assert [c.p_holm for c in upper] == pytest.approx(holm([c.p for c in upper]))
    for c in upper:
        back = compared[c.other, c.method]
        assert back.difference.estimate == -c.difference.estimate
        assert back.ratio.low == pytest.approx(1 / c.ratio.high)
        assert back.p_holm == c.p_holm


def test_the_numbers_are_alloc_moes_at_every_budget():
    (block,) = verdicts.blocks(results(MADE))
    assert [(r.budget, r.method) for r in block.table.rows] == [
        (b, m) for b in BUDGETS for m in ("original", "uniform", "ascending", "alloc-t")
    ]
    words = said(render(MADE, "Verdicts", ["verdicts"]), "verdicts")
    assert "corrected by Holm over the 10 pairs" in words
    assert "Alloc-MoE over the other" in words


def test_one_method_alone_is_compared_with_the_original():
    (block,) = verdicts.blocks(results([quality(*p) for p in plans("uniform")]))
    assert block.facts["methods"] == ["original", "uniform"]
    assert block.table is None
    assert list(verdicts.blocks(results([quality("original", 48)]))) == []
