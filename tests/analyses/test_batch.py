"""Batches under Alloc-T: every window keeps its place, and its loss is that of its own batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allocmoe.analyses import batch
from tests.analyses.small import setting


def test_a_window_s_loss_is_that_among_its_neighbours(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    plan = made.plans(["alloc-t"], [made.half])[1]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with made.engine.using(plan):
        found = batch.losses(made, order)
        for pair in ([3, 0], [5, 1], [4, 2]):
            wanted = made.engine.nll(made.text.ids[pair]) / (made.text.ids.shape[1] - 1)
            assert [found[i] for i in pair] == pytest.approx(wanted.tolist())
        plain = batch.losses(made, torch.arange(6))
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 1e-6, "neighbours matter"


def test_orders_are_permutations_and_the_first_changes_nothing() -> None:
    assert batch.order_of(6, 0, 7).tolist() == list(range(6))
    orders = [batch.order_of(6, number, 0).tolist() for number in range(batch.ORDERS)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_unchanged_model_does_not_mind_its_batch(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    found = batch.ANALYSIS.run(made)
    whole = [r for r in found if r.method == "original"]
    assert len(whole) == len(batch.SIZES) + batch.ORDERS - 1
    for record in whole:
        assert record.samples["nll"] == pytest.approx(whole[0].samples["nll"], rel=1e-6)
    mine = [r for r in found if r.method == "alloc-t"]
    assert {r.setup["text_batch"] for r in mine if not r.setup["analysis"]["order"]} == set(batch.SIZES)
    assert len({r.metrics["perplexity"] for r in mine}) > 3
    assert all(r.spent["per_token"] == pytest.approx(made.half, abs=0.2) for r in mine)
    size = made.out.stat().st_size
    batch.ANALYSIS.run(made)
    assert made.out.stat().st_size == size
