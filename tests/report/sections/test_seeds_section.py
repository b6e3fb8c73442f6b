"""Other seeds of the same training."""

from __future__ import annotations

import math

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import seeds
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_it_has_a_figure_per_seed_and_names_the_lowest_of_each() -> None:
    (block,) = seeds.blocks(results([*analysed.methods(), *analysed.seeds()]))
    assert block.facts["models"] == ["mini-deepseek", "mini-deepseek-seed-1"]
    assert block.facts["lowest"] == ["Alloc-MoE / uniform"] * 4
    rows = {row["method"]: row["cells"] for row in block.facts["rows"]}
    # at 130: Alloc-MoE loses 0.02 nats in half of the windows and 0.04 in the others, and 0.07 on the other seed
    assert rows["alloc-moe"][0] == f"{100 * math.expm1(0.03):+.1f} / {100 * math.expm1(0.07):+.1f}"
    (points,) = [t for t in block.figure.data if t.name == "Alloc-MoE"]
    assert len(points.x) == 8
    assert points.y[:2] == pytest.approx((math.expm1(0.03), math.expm1(0.07)))


def test_one_seed_is_none() -> None:
    assert not list(seeds.blocks(results(analysed.methods())))
