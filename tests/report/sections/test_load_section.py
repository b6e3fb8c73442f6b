"""Load of experts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from allocmoe.report.results import results
from allocmoe.report.sections import load
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_the_table_has_the_ends_of_every_statistic() -> None:
    table, layer = load.blocks(results([*analysed.methods(), *analysed.loads()]))
    assert table.title == f"Load of experts: {analysed.LABEL}"
    assert [row["method"] for row in table.facts["rows"]] == ["uniform", "alloc-moe"]
    whole, _, plan = analysed.loads()
    loads = zip(whole.samples["activations"], plan.samples["activations"], strict=True)
    each = [stats.spearmanr(before, after).statistic for before, after in list(loads)[:-1]]
    assert table.facts["rows"][1]["cells"][0] == f"{min(each):.3f} to {max(each):.3f}"
    assert table.facts["theirs"] == ["0.93 to 0.99", "lower by 0.003 to 0.035", "below 0.014"]
    (line,) = [t for t in table.figure.data if t.name == "Alloc-MoE" and t.xaxis == "x"]
    assert list(line.y[:-1]) == pytest.approx(each)
    assert line.y[-1] is None, "the last layer's load is even"
    assert layer.title.startswith("MoE layer 9, Alloc-MoE at 78")


def test_the_load_of_one_layer_is_a_distribution_in_the_order_of_the_unchanged_model() -> None:
    _, block = load.blocks(results([*analysed.methods(), *analysed.loads()]))
    before, after = block.figure.data
    counts = np.array(analysed.loads()[0].samples["activations"][9])
    assert list(before.y) == pytest.approx(sorted(counts / counts.sum(), reverse=True))
    assert sum(after.y) == pytest.approx(1)
    mine = np.array(analysed.loads()[2].samples["activations"][9])
    assert block.facts["fewer"] == f"{mine.sum() / counts.sum():.0%}"


def test_without_the_unchanged_model_nothing_is_compared() -> None:
    assert not list(load.blocks(results([*analysed.methods(), *analysed.loads()[1:]])))
