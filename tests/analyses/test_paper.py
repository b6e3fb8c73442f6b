"""The paper's numbers contradict neither their own last column nor each other."""

from __future__ import annotations

import pytest

from allocmoe.analyses import paper
from allocmoe.spec import PAPER_BUDGETS


@pytest.mark.parametrize("table", paper.TABLES)
def test_rows_have_the_average_that_the_paper_prints(table: str) -> None:
    assert set(paper.TABLES[table]) == set(paper.AVERAGES[table])
    for shape, rows in paper.TABLES[table].items():
        for (row, values), average in zip(rows.items(), paper.AVERAGES[table][shape], strict=True):
            assert len(values) == len(paper.BUDGETS[shape]) == 4
            assert sum(values) / 4 == pytest.approx(average, abs=0.0051), (shape, row)


def test_budgets_and_shapes_are_the_paper_s() -> None:
    assert {(layers, k): sorted(b) for (layers, _, k), b in PAPER_BUDGETS.items()} == {
        shape: list(budgets) for shape, budgets in paper.BUDGETS.items()
    }
    assert set(paper.MODELS) == set(paper.BUDGETS)


def test_a_place_that_the_paper_does_not_have_is_none() -> None:
    assert paper.accuracy("k_base", paper.DEEPSEEK, "1", 78) == 45.42
    assert paper.accuracy("ablation", paper.OLMOE, "alloc-moe", 64) == 37.53
    for place in (
        ("k_base", paper.DEEPSEEK, "1", 77), ("k_base", (2, 2), "1", 78), ("k_base", paper.DEEPSEEK, "9", 78),
        ("dice", paper.DEEPSEEK, "1", 78),
    ):  # fmt: skip
        assert paper.accuracy(*place) is None
