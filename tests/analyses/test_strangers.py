"""Strangers in the batch: what is chosen, and what it moves, against plain passes of the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe.analyses import neighbours
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from tests.analyses.small import LENGTH, setting


def test_appetite_is_what_candidates_behind_the_first_weigh(tmp_path: Path) -> None:
    engine = setting(tmp_path / "r.jsonl").engine
    ids = torch.randint(0, 96, (3, 5), generator=torch.Generator().manual_seed(1))
    found = neighbours.appetite(engine, ids)
    for row, value in zip(ids, found.tolist(), strict=True):
        seen: list[float] = []
        hooks = [
            router.register_forward_hook(
                lambda _m, _a, out, seen=seen: seen.extend((r.sum() - r.max()).item() for r in out[1])
            )
            for router in engine.routers
        ]
        with torch.no_grad():
            engine.model(row[None])
        for hook in hooks:
            hook.remove()
        assert value == pytest.approx(math.fsum(seen) / len(seen), rel=1e-5)


def test_the_flattest_and_the_most_peaked_of_the_pool_are_taken(tmp_path: Path) -> None:
    engine = setting(tmp_path / "r.jsonl").engine
    found = neighbours.adversaries(engine, LENGTH, 2, 0)
    every = neighbours.appetite(engine, neighbours.pool(engine, LENGTH, 0)).sort().values
    assert neighbours.appetite(engine, found["flat"]).sort().values == pytest.approx(every[-2:])
    assert neighbours.appetite(engine, found["peaked"]).sort().values == pytest.approx(every[:2])


@torch.no_grad()
def test_what_moves_is_the_divergence_of_the_victim_s_own_predictions(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    plan = made.plans(["alloc-t"], [made.half])[1]
    victims, usual, others = made.text.ids[:2], made.text.ids[3:5], made.text.ids[5:6].repeat(2, 1)
    with made.engine.using(plan):
        means, most, flips = neighbours.moved(made.engine, victims, usual, others)
        for i, row in enumerate(victims):
            p, q = (
                made.engine.model(torch.cat([row[None], beside])).logits[0, :-1].double().log_softmax(-1)
                for beside in (usual, others)
            )
            wanted = (p.exp() * (p - q)).sum(-1)
            assert means[i] == pytest.approx(float(wanted.mean()), rel=1e-6)
            assert most[i] == pytest.approx(float(wanted.max()), rel=1e-6)
    assert 0 <= flips <= 1
    assert min(means) > 1e-6


@pytest.mark.parametrize(("size", "says"), [(1, "at least 2 windows"), (7, "take 6 at most"), (90, "take 6 at most")])
def test_a_batch_without_neighbours_is_refused(size: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(AllocMoEError, match=says):
        neighbours.ANALYSIS.run(setting(tmp_path / "r.jsonl", batch=size))


@pytest.mark.parametrize("size", [2, 5, 6])
def test_no_victim_is_its_own_neighbour(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six windows: where the batch takes most of them, few are left to be looked at."""
    made, seen = setting(tmp_path / "r.jsonl", batch=size), []

    def noting(_: HFEngine, victims: torch.Tensor, usual: torch.Tensor, _others: torch.Tensor) -> Any:
        seen.append((victims.tolist(), usual.tolist()))
        return [0.0] * len(victims), [0.0] * len(victims), 0.0

    monkeypatch.setattr(neighbours, "moved", noting)
    found = neighbours.ANALYSIS.run(made)
    windows = made.text.ids.tolist()
    assert seen[0] == (windows[: 7 - size], windows[7 - size :])
    assert {r.setup["analysis"]["victims"] for r in found} == {7 - size}


def test_thresholds_and_top_k_are_deaf(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    found = {(r.method, r.setup["analysis"]["beside"]): r for r in neighbours.ANALYSIS.run(made)}
    assert set(found) == {(m, kind) for m in ("original", *neighbours.METHODS) for kind in neighbours.KINDS}
    for (method, _), record in found.items():
        deaf = method in ("original", "uniform") or "causal" in str(method)
        assert (record.metrics["kl_most"] < 1e-9) is deaf, method
    size = made.out.stat().st_size
    neighbours.ANALYSIS.run(made)
    assert made.out.stat().st_size == size
