"""k_base: which plan stands where, and that plans which compute the same are one."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocmoe.analyses import k_base
from tests.analyses.small import BATCH, setting


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "deepseek_v2"])
def test_every_place_computes_what_its_k_base_says(family: str, tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl", family, budgets=(tiny_budget(family), tiny_budget(family) + 1))
    top_k = made.engine.spec.top_k
    table = k_base.rows(made)
    assert list(table) == [str(k) for k in range(top_k)]
    (ids,) = made.text.batches(len(made.text.ids))
    for label, plans in table.items():
        assert [p.budget for p in plans] == list(made.budgets)
        for plan in plans:
            asked = made.plans(["alloc-t"], [plan.budget], k_base=int(label))[1]
            with made.engine.using(asked):
                wanted = made.engine.nll(ids)
            with made.engine.using(plan):
                assert made.engine.nll(ids).tolist() == pytest.approx(wanted.tolist(), rel=1e-9)


def tiny_budget(family: str) -> int:
    """Two experts in every layer; one more is no whole number of them."""
    return 2 * {"olmoe": 4, "qwen2_moe": 3, "deepseek_v2": 3}[family]


def test_the_table_names_a_record_for_every_place(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl", budgets=(8, 9))
    *measured, table = k_base.ANALYSIS.run(made)
    known = {r.plan: r for r in measured}
    rows = table.details["rows"]
    assert list(rows) == ["0", "1", "2", "3"]
    assert all(rows[label][str(b)] in known for label in rows for b in (8, 9))
    assert rows["2"]["8"] == rows["3"]["8"], "two of two experts leave nothing to share"
    assert known[rows["2"]["8"]].method == "uniform"
    assert rows["2"]["9"] == rows["3"]["9"] != rows["1"]["9"]
    assert table.details["shape"] == [4, 4]
    assert len({r.metrics["perplexity"] for r in measured}) > 3
    whole = next(r for r in measured if r.method == "original")
    assert whole.setup["analysis"] == {"name": "k_base"}
    size = made.out.stat().st_size
    k_base.ANALYSIS.run(made)
    assert made.out.stat().st_size == size
    assert whole.setup["text_batch"] == BATCH
