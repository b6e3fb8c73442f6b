"""Tables of what was measured as if decoding, against plain arithmetic on small records."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.report.prose import Sources
from allocmoe.report.style import TIMES
from tests.report.made import BUDGETS, WHOLE, decoded
from tests.report.quoted import COUNTS, FILES, rows


def test_the_table_of_distinct_experts(sources: Sources) -> None:
    head, cells = rows("distinct", "decoded mini-olmoe", sources)
    assert head == ["mini-olmoe, unchanged at 10.0", *map(str, BUDGETS)]
    mine = [decoded("alloc-moe", b, 11 + i) for i, b in enumerate(BUDGETS)]
    base = decoded("original", WHOLE, 10).metrics["perplexity"]
    wanted = [f"{100 * (r.metrics['perplexity'] / base - 1):+.1f} % at {11 + i}.0" for i, r in enumerate(mine)]
    assert cells == ["Alloc-MoE", *wanted]


def read_off(method: str, experts: float) -> float | None:
    """Perplexity over the unchanged model's: the logarithms of perplexities, straight in distinct experts."""
    mine = sorted((fmean(r.spent["distinct_per_layer"]), math.log(r.metrics["perplexity"])) for r in FILES["lines"]
                  if r.method in (method, "original"))  # fmt: skip
    if not mine[0][0] <= experts <= mine[-1][0]:
        return None
    return math.exp(float(np.interp(experts, *zip(*mine, strict=True))) - mine[-1][1])


def test_the_table_of_equal_distinct_experts(sources: Sources) -> None:
    head, *found = rows("equal", "lines mini-olmoe uniform,oea,alloc-moe-refill", sources)
    assert head[:3] == ["mini-olmoe, budget", "distinct experts", "H100, predicted"]
    for cells, budget, experts in zip(found, (112, 96, 80, 64), COUNTS["uniform"], strict=True):
        wanted = [read_off(m, experts) for m in COUNTS]
        assert cells[3:] == [f"{100 * (v - 1):+.1f} %" if v else "-" for v in wanted]
        speedup = (33.9 + 2.908 * 40) / (33.9 + 2.908 * experts)
        assert cells[:3] == [str(budget), f"{experts:.1f}", f"{speedup:.2f}{TIMES}"]
    assert found[-1][4] == "-", "OEA touches more than uniform at its least budget"


def test_the_table_of_experts_needed_at_equal_loss(sources: Sources) -> None:
    head, *found = rows("needed", "lines 1/2 uniform,oea,alloc-moe-refill", sources)
    loss = read_off("uniform", 24) or 0
    assert head == ["no more loss than uniform at 1/2", f"mini-olmoe, {100 * (loss - 1):+.1f} % at 24.0"]
    assert found == [
        ["uniform", f"24.0, {(33.9 + 2.908 * 40) / (33.9 + 2.908 * 24):.2f}{TIMES}"],
        ["OEA", "-"],
        ["Alloc-MoE + refill", "-"],
    ], "all of their plans lose less"
    head, *found = rows("needed", "lines 3/4 uniform,oea,alloc-moe-refill", sources)
    grid = [d for d in np.arange(24.5, 40, 0.001) if (read_off("oea", d) or 9) <= (read_off("uniform", 32) or 0)]
    assert float(found[1][1].split(",")[0]) == pytest.approx(grid[0], abs=0.06)


def test_the_table_of_who_is_ahead(sources: Sources) -> None:
    _, uniform, oea = rows("ahead", "lines alloc-moe-refill uniform,oea", sources)
    behind = 100 * ((read_off("alloc-moe-refill", 36) or 0) / (read_off("uniform", 36) or 1) - 1)
    assert uniform[:4] == ["uniform", "3", "0", "1"]
    assert uniform[4].startswith(f"mini-olmoe 112: {behind:+.1f} % (")
    assert oea[:4] == ["OEA", "2", "0", "1"]
    assert oea[4].endswith("mini-olmoe 64: not measured there")
    assert rows("ahead", "lines alloc-moe-refill uniform other", sources)[1] == ["uniform", "0", "0", "0", "-"]
    head, uniform = rows("ahead", "lines alloc-moe-refill uniform paper divergence", sources)
    assert head[-1] == "not ahead at: difference of KL divergence in nats"
    assert uniform[1:4] == ["3", "0", "1"]
    refilled = sorted((d, r) for d, r in zip(COUNTS["alloc-moe-refill"], (0.04, 0.01, 0.02, 0.04), strict=True))
    wanted = float(np.interp(36, *zip(*refilled, (40, 0.0), strict=True))) - 0.02  # uniform's own at 36
    assert uniform[4].startswith(f"mini-olmoe 112: {wanted:+.4f} (")


def test_the_tables_of_batch_sizes(sources: Sources) -> None:
    by = {(r.method, r.setup["text_batch"], r.plan): r for r in FILES["sizes"]}

    def cell(method: str, size: int, plan: str) -> str:
        mine, whole = by[method, size, plan], by["original", size, "original-128"]
        rise = math.exp(fmean(mine.samples["nll"]) - fmean(whole.samples["nll"])) - 1
        return f"{100 * rise:+.1f} % at {fmean(mine.spent['distinct_per_layer']):.1f}"

    head, *found = rows("batch", "sizes mini-olmoe 1/2 8", sources)
    assert head == ["mini-olmoe at 1/2, sequences", "8", "32"]
    assert found == [
        ["unchanged", "40.0 experts", "60.0 experts"],
        ["uniform", cell("uniform", 8, "uniform-64"), cell("uniform", 32, "uniform-64")],
        ["Alloc-D + refill, made for 8", cell("alloc-d", 8, "for 8"), cell("alloc-d", 32, "for 8")],
        ["Alloc-D + refill, made for each", cell("alloc-d", 8, "for 8"), cell("alloc-d", 32, "for 32")],
    ]
    kept = [cells for cells in rows("batch", "sizes mini-olmoe 1/2 32", sources) if "made for" in cells[0]]
    assert [cells[0].split(", ")[1] for cells in kept] == ["made for 32", "made for each"]
    assert kept[0][1] == "-", "the plan for 32 was not measured at 8"
    head, whole, uniform, *_ = rows("batch-predicted", "sizes mini-olmoe 1/2 8", sources)
    assert whole == ["unchanged", f"1.00{TIMES}", f"1.00{TIMES}"]
    assert uniform[1:] == [f"{(33.9 + 2.908 * d) / (33.9 + 2.908 * d / 2):.2f}{TIMES}" for d in (40, 60)]


def test_the_table_of_plans_for_another_size(sources: Sources) -> None:
    head, (model, cell) = rows("batch-held", "sizes alloc-d 1/2 8", sources)
    assert head == ["Alloc-D + refill at 1/2, sequences", "32"]
    at_32 = {r.plan: r for r in FILES["sizes"] if r.method == "alloc-d" and r.setup["text_batch"] == 32}
    eight, own = (at_32[f"for {size}"] for size in (8, 32))
    change = 100 * (math.exp(fmean(eight.samples["nll"]) - fmean(own.samples["nll"])) - 1)
    assert model == "mini-olmoe"
    assert cell.startswith(f"{change:+.1f} % (")
    assert cell.endswith("; 29.0 and 26.0")


@pytest.mark.parametrize(("name", "call", "said"), [
    ("equal", "made mini-olmoe uniform", "no quality of 'mini-olmoe' as if decoding"),
    ("ahead", "lines alloc-moe-refill uniform all", "expected paper or other, not 'all'"),
    ("ahead", "lines alloc-moe-refill uniform paper accuracy", "unknown metric 'accuracy'"),
    ("batch", "sizes mini-qwen 1/2 8", "nothing of 'mini-qwen'|no quality of 'mini-qwen'"),
])  # fmt: skip
def test_what_the_records_do_not_hold_is_refused(name: str, call: str, said: str, sources: Sources) -> None:
    with pytest.raises(AllocMoEError, match=said):
        rows(name, call, sources)
