"""Tables of costs and of what was gained, against plain arithmetic on small records."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.report.prose import Sources
from allocmoe.report.style import TIMES
from tests.report.quoted import PRICES, TIMED, rows


def test_the_table_of_costs(sources: Sources) -> None:
    head, cells = rows("costs", "prices", sources)
    assert head[:3] == ["timed on", "sequences", "an expert, ms"]
    assert cells == [
        "olmoe-wide", "8", "0.2500 (0.2000 to 0.3000)", "0.0100 (0.0000 to 0.0200)", "30.0 (29.0 to 31.0)",
        "2.0 (1.0 to 3.0)", "3.0 %",
    ]  # fmt: skip


def seconds(method: str, budget: int) -> np.ndarray:
    return np.array(next(r.samples["decode_s"] for r in TIMED if (r.method, r.budget) == (method, budget)))


def test_the_table_of_what_is_faster_at_no_more_loss(sources: Sources) -> None:
    _, *found = rows("faster", "pairs lines prices 8 uniform,oea,alloc-moe-refill", sources)
    # by `lines`, uniform loses 0.2 at half; OEA 0.1 and the refilled Alloc-MoE 0.04 there, both with less
    assert [(cells[1], cells[2]) for cells in found] == [("uniform", "64"), ("OEA", "64"), ("Alloc-MoE + refill", "64")]
    whole, base = seconds("original", 128), seconds("uniform", 64)
    for cells, method in zip(found, ("uniform", "oea", "alloc-moe-refill"), strict=True):
        mine = seconds(method, 64)
        spent = next(r.spent["decode"] for r in TIMED if r.method == method and r.budget == 64)
        assert cells[5].startswith(f"{math.exp(np.log(whole / mine).mean()):.2f}{TIMES}")
        assert cells[6].startswith("1" if method == "uniform" else f"{math.exp(np.log(base / mine).mean()):.2f}{TIMES}")
        own = 0.0 if method == "uniform" else 2.0 if method == "oea" else 4.0
        takes = 30 + own + 0.25 * sum(spent["distinct_per_layer"]) + 0.01 * 8 * sum(spent["per_layer"])
        before = next(r.spent["decode"] for r in TIMED if r.method == "original")
        took = 30 + 0.25 * sum(before["distinct_per_layer"]) + 0.01 * 8 * sum(before["per_layer"])
        assert cells[7] == f"{took / takes:.2f}{TIMES}"
        layers = [33.9 + 2.908 * fmean(s["distinct_per_layer"]) for s in (before, spent)]
        assert cells[8] == f"{layers[0] / layers[1]:.2f}{TIMES}"


def test_the_table_of_sessions(sources: Sources) -> None:
    head, cells = rows("decoded", "pairs uniform,oea,naee", sources)
    assert head[3:] == ["unchanged", "uniform", "OEA", "NAEE"]
    assert cells[:3] == ["olmoe-wide", "8", "random tokens"]
    fast = math.exp(np.log(seconds("original", 128) / seconds("uniform", 64)).mean())
    assert cells[4].startswith(f"{fast:.2f}{TIMES} (")
    assert cells[-1] == "-"


def test_the_table_of_routing(sources: Sources) -> None:
    head, *found = rows("routing", "routed", sources)
    assert head == ["timed on", "what", "decode", "prefill"]
    assert [cells[2:] for cells in found] == [
        ["+0.4 % (+0.3 to +0.6)", "-0.2 % (-0.3 to 0.0)"],
        ["+1.2 % (+1.1 to +1.4)", "+0.2 % (+0.1 to +0.4)"],
        ["+2.0 % (+1.9 to +2.2)", "-"],
    ]
    assert {cells[0] for cells in found} == {"olmoe-wide, bfloat16"}
    assert ["Alloc-T" in cells[1] for cells in found] == [False, True, True]


def test_the_table_of_wishes(sources: Sources) -> None:
    _, cells = rows("wishes", "wishes", sources)
    assert cells == [
        "mini-olmoe", "1.3x faster", "fast enough", "yes", "Alloc-MoE", "40", f"1.33{TIMES}",
        f"1.31{TIMES} (1.28 to 1.34)", "2.20 %", "2.50 % (1.90 to 3.10)",
    ]  # fmt: skip


def test_a_shape_without_a_cost_is_named(sources: Sources) -> None:
    with pytest.raises(AllocMoEError, match="allocmoe fit"):
        rows("faster", "pairs lines lines 8 uniform", sources)


def test_the_fit_that_is_used_is_the_latest() -> None:
    assert PRICES[0].metrics["distinct_ms"] != PRICES[-1].metrics["distinct_ms"]
