"""Copies with rounded or pruned weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from allocmoe.engines.hf import HFEngine
from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.routing import RULES
from bench.copies import GROUP, best_experts, copied, moved, rounded

pytestmark = pytest.mark.whole


def test_weights_lie_on_a_grid_of_so_many_bits() -> None:
    weights = torch.randn(3, 5, 4 * GROUP, generator=torch.Generator().manual_seed(0))
    for bits in (8, 4):
        found = rounded(weights, bits)
        for group, kept in zip(weights.reshape(-1, GROUP), found.reshape(-1, GROUP), strict=True):
            step = float(group.abs().max()) / (2 ** (bits - 1) - 1)
            assert (kept / step).round().tolist() == pytest.approx((kept / step).tolist(), abs=1e-3)
            assert float((kept - group).abs().max()) <= step * 0.501


def test_the_experts_of_largest_saliency_stay() -> None:
    assert best_experts([[0.1, 0.4, 0.2, 0.3], [4, 3, 2, 1]], 2) == [[1, 3], [0, 1]]


@torch.no_grad()
def test_a_pruned_copy_is_the_model_whose_router_has_no_others(tmp_path: Path) -> None:
    """Which is what a plan of REAP makes of the original."""
    engine = HFEngine.load(resolve("mini-qwen"))
    spec, draw = engine.spec, torch.Generator().manual_seed(1)
    left = [sorted(torch.randperm(spec.experts, generator=draw)[:40].tolist()) for _ in range(spec.layers)]
    copy = HFEngine.load(copied(engine, left, 0, tmp_path))
    assert copy.spec == replace(spec, experts=40)
    base = allocate("original", spec, engine.fingerprint, spec.original_budget)
    stays = tuple(tuple(float(e in row) for e in range(spec.experts)) for row in left)
    pruning = replace(base, method="reap", token_rule=RULES["prune"].name, parameters={"kept": stays})
    ids = torch.randint(2, 2000, (2, 24), generator=draw)
    with engine.using(pruning):
        expected = engine.model(ids).logits
    torch.testing.assert_close(copy.model(ids).logits, expected, rtol=1e-3, atol=1e-3)
    norms = tuple(tuple(float(e) for e in range(spec.experts)) for _ in left)
    plan = moved(replace(base, norms=norms), copy, left)
    assert plan.norms == tuple(tuple(map(float, row)) for row in left)
    plan.check_model(copy.spec, copy.fingerprint)
