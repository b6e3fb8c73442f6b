"""Experts kept and routing entropy."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import entropy
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_the_table_has_the_correlations_and_both_halves_of_the_depth() -> None:
    (block,) = entropy.blocks(results([*analysed.methods(), *analysed.kept()]))
    (record,) = analysed.kept()
    known = [v for v in record.samples["experts"]["pearson"] if v is not None]
    (row,) = block.facts["rows"]
    numbers = record.samples["kept"]
    assert row["cells"][0] == "25 of 26", "in the first layer all tokens keep six"
    assert row["cells"][1] == f"{min(known):.2f} to {max(known):.2f}"
    assert row["cells"][3] == f"{-max(known):.2f} to {-min(known):.2f}", "the candidates' is the other way round"
    assert row["cells"][5:] == [f"{sum(half) / 13:.2f}" for half in (numbers[:13], numbers[13:])]
    assert block.facts["theirs"] == "above 0.7"
    assert block.facts["layer"] == 9


def test_the_figure_rises_with_entropy() -> None:
    (block,) = entropy.blocks(results([*analysed.methods(), *analysed.kept()]))
    depth, related, candidates, bins, others = block.figure.data
    assert list(depth.y) == analysed.kept()[0].samples["kept"]
    assert related.y[0] is candidates.y[0] is None
    assert (related.line.dash, candidates.line.dash) == ("solid", "dash")
    assert len(bins.x) == len(others.x) == 10
    assert list(bins.x) == sorted(bins.x)
    assert bins.y[-1] - bins.y[0] > 3
    assert others.y[0] - others.y[-1] > 3


def test_a_layer_in_which_nothing_varies_is_not_shown() -> None:
    (record,) = analysed.kept()
    record.samples["experts"]["pearson"][9] = None
    assert entropy.shown_layer([record]) in (8, 10)
