"""Tables of the analyses, against plain arithmetic on small records."""

from __future__ import annotations

import math
import statistics

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.report.prose import Sources
from tests.report import analysed
from tests.report.quoted import rows, value


def test_the_table_of_a_study(sources: Sources) -> None:
    head, *found = rows("study", "k_base mini-deepseek studied", sources)
    theirs = [f"paper, {b}" for b in analysed.BUDGETS]
    assert head == ["mini-deepseek: k_base", *map(str, analysed.BUDGETS), *theirs]
    assert [line[0] for line in found] == ["0", "1", "5", "2", "3", "4"]
    # at 130: half of the windows lose 0.005 nats, the others 0.01; 35 of 40 items are right, of 36
    assert found[0][1] == f"**{100 * math.expm1(0.0075):+.1f} %, -2.5**"
    assert found[0][5:] == ["46.09", "45.99", "45.36", "42.68"]
    assert found[3][1:5] == ["-"] * 4
    apart = rows("study", "ablation mini-deepseek studied", sources)[1:]
    assert [line[0] for line in apart] == ["uniform", "Alloc-L", "Alloc-T", "Alloc-MoE"]
    with pytest.raises(AllocMoEError, match=r"unknown study .dice.: expected one of ablation, "):
        value("table", "study dice mini-deepseek studied", sources)
    with pytest.raises(AllocMoEError, match=r"have 0 tables of .k_base. for .mini-qwen."):
        value("table", "study k_base mini-qwen studied", sources)


def test_the_table_of_batch_sizes(sources: Sources) -> None:
    head, *found = rows("sizes", "studied", sources)
    made = {(r.method, r.setup["text_batch"]): r.metrics["perplexity"]
            for r in analysed.batches() if r.setup["analysis"]["order"] == 0}  # fmt: skip
    counts = sorted({count for _, count in made})
    assert head == ["model", "plan", *map(str, counts)]
    for model, plan, *cells in found:
        method = {"Alloc-T": "alloc-t", "Alloc-MoE": "alloc-moe"}[plan]
        assert model == "mini-deepseek"
        assert cells == [f"{100 * (made[method, c] / made['original', c] - 1):+.2f} %" for c in counts]


def test_the_table_of_strangers(sources: Sources) -> None:
    head, *found = rows("strangers", "studied", sources)
    assert head == ["plan", "mini-deepseek"]
    assert found == [["Alloc-T", "0.02, 2.0 %"], ["Alloc-MoE causal", "0, 0.0 %"]]


def test_the_table_of_load(sources: Sources) -> None:
    *found, theirs = rows("load", "studied", sources)[1:]
    assert [line[:3] for line in found] == [["mini-deepseek", "uniform", "78"], ["mini-deepseek", "Alloc-MoE", "78"]]
    record = analysed.loads()[2]
    least, most = (record.metrics[f"divergence_{end}"] for end in ("least", "most"))
    assert found[1][5] == f"{least:.4f} to {most:.4f}"
    assert theirs == [
        "the paper's: DeepSeek-V2-Lite", "Alloc-MoE", "78", "0.93 to 0.99", "lower by 0.003 to 0.035", "below 0.014",
    ]  # fmt: skip


def test_the_table_of_kept_experts(sources: Sources) -> None:
    found, theirs = rows("kept", "studied", sources)[1:]
    (record,) = analysed.kept()
    assert found[:4] == ["mini-deepseek", "Alloc-T", "78", "25 of 26"]
    assert found[4].startswith(f"{record.metrics['experts_pearson_least']:.2f} to ")
    assert theirs[4] == "above 0.7"


def test_the_table_of_mixed_batches(sources: Sources) -> None:
    whole, planned = rows("mixed", "studied", sources)[1:]
    far = statistics.stdev([0.0, 0.02])
    assert planned[:2] == ["mini-deepseek", "Alloc-T"]
    assert planned[3:] == [f"{far / 2:.4f}", f"{far:.4f}"]
    assert whole[3:] == ["0.0000", "0.0000"]
