"""Alloc-L and Alloc-T, apart and together."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import ablation
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_it_stands_beside_the_paper_s_table() -> None:
    (block,) = ablation.blocks(results(analysed.methods()))
    assert block.title == f"Apart and together: {analysed.LABEL}"
    rows = {row["label"]: row for row in block.facts["rows"]}
    assert list(rows) == ["uniform", "Alloc-L", "Alloc-T", "Alloc-MoE"]
    assert rows["Alloc-MoE"]["theirs"] == ["46.17", "46.01", "45.48", "43.09"]
    assert [best for _, best in rows["Alloc-MoE"]["cells"]] == [True] * 4
    assert [best for _, best in rows["uniform"]["cells"]] == [False] * 4
    assert block.facts["model"] == "DeepSeek-V2-Lite"


def test_one_method_alone_is_no_ablation() -> None:
    few = [r for r in analysed.methods() if r.method in ("original", "uniform")]
    assert not list(ablation.blocks(results(few)))
