"""Load of experts: counts against loops over tokens, statistics against their definitions and scipy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.spatial.distance import jensenshannon

from allocmoe import records
from allocmoe.analyses import load
from tests.analyses.small import BATCH, decisions, setting, text

METHODS = ("original", "uniform", "alloc-t", "alloc-moe")


def by_hand(kept: list, experts: int) -> tuple[list[list[int]], list[list[float]]]:
    """Activations and summed weights of every expert, one pair at a time."""
    tokens = [[0] * experts for _ in kept]
    weights: list[list[list[float]]] = [[[] for _ in range(experts)] for _ in kept]
    for layer, rows in enumerate(kept):
        for pairs in rows:
            for expert, weight in pairs:
                tokens[layer][expert] += 1
                weights[layer][expert].append(weight)
    return tokens, [[math.fsum(each) for each in row] for row in weights]


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "deepseek_v2"])
@pytest.mark.parametrize("method", METHODS)
def test_counts_are_those_of_a_loop(method: str, family: str, tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl", family)
    plan = next(p for p in made.plans([method], [made.half]) if p.method == method)
    tokens, weights = load.counted(made.engine, plan, made.text, BATCH)
    wanted, masses = by_hand(decisions(made.engine, plan, made.text, BATCH)[0], made.engine.spec.experts)
    assert tokens.tolist() == wanted
    assert np.allclose(weights.numpy(), masses, rtol=1e-5)
    whole, passes = plan.exact_budget * made.text.ids.numel(), len(made.text.batches(BATCH)) * made.engine.spec.layers
    assert whole - passes < int(tokens.sum()) <= whole + 1e-6, "a pass may leave less than one activation of a layer"
    with made.engine.using(plan), made.engine.count() as spent:
        for ids in made.text.batches(BATCH):
            made.engine.model(ids)
    assert tokens.tolist() == spent.load.tolist(), "the counter of the engine"


def test_watching_ends_with_it(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    before = [len(router._forward_hooks) for router in made.engine.routers]
    load.counted(made.engine, made.plans(["original"], [])[0], made.text, BATCH)
    assert [len(router._forward_hooks) for router in made.engine.routers] == before


def ranks(values: list[float]) -> list[float]:
    """From 1; equal values share the mean of their places."""
    return [sum(v < own for v in values) + (sum(v == own for v in values) + 1) / 2 for own in values]


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    top = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(math.fsum((x - mean_a) ** 2 for x in a) * math.fsum((y - mean_b) ** 2 for y in b))


def entropy(values: list[float]) -> float:
    shares = [v / math.fsum(values) for v in values]
    return -math.fsum(p * math.log(p) for p in shares if p) / math.log(len(values))


def divergence(a: list[float], b: list[float]) -> float:
    """Jensen-Shannon in bits."""
    p, q = ([v / math.fsum(side) for v in side] for side in (a, b))
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    parts = [side[i] * math.log2(side[i] / middle[i]) for side in (p, q) for i in range(len(p)) if side[i]]
    return math.fsum(parts) / 2


@pytest.fixture(scope="module")
def sides() -> tuple[dict, dict]:
    """Loads with ties and with experts that nobody uses."""
    rng = np.random.default_rng(0)
    before = rng.integers(0, 30, (5, 12)) * (rng.uniform(size=(5, 12)) < 0.8)
    after = (before * rng.uniform(0.3, 0.9, (5, 12))).astype(int) + rng.integers(0, 2, (5, 12))
    found = [{"activations": counts.tolist(), "weights": (counts * rng.uniform(0.5, 1, counts.shape)).tolist()}
             for counts in (before, after)]  # fmt: skip
    return found[0], found[1]


def test_statistics_are_their_definitions(sides: tuple[dict, dict]) -> None:
    before, after = sides
    found = load.statistics(before, after)
    assert set(found) == set(load.STATISTICS)
    for layer in range(5):
        a, b = before["activations"][layer], after["activations"][layer]
        assert found["spearman"][layer] == pytest.approx(pearson(ranks(a), ranks(b)), rel=1e-12)
        assert found["entropy_change"][layer] == pytest.approx(entropy(b) - entropy(a), abs=1e-12)
        masses = before["weights"][layer], after["weights"][layer]
        assert found["divergence"][layer] == pytest.approx(divergence(*masses), rel=1e-9)


def test_statistics_are_those_of_scipy_another_way(sides: tuple[dict, dict]) -> None:
    before, after = sides
    found = load.statistics(before, after)
    for layer in range(5):
        a, b = (np.array(side["activations"][layer], dtype=float) for side in sides)
        ranked = scipy_stats.pearsonr(scipy_stats.rankdata(a), scipy_stats.rankdata(b)).statistic
        assert found["spearman"][layer] == pytest.approx(ranked, rel=1e-12)
        change = scipy_stats.entropy(b, base=len(b)) - scipy_stats.entropy(a, base=len(a))
        assert found["entropy_change"][layer] == pytest.approx(change, abs=1e-12)
        bits = jensenshannon(before["weights"][layer], after["weights"][layer], base=2) ** 2
        assert found["divergence"][layer] == pytest.approx(bits, rel=1e-9)


def test_the_same_load_changes_nothing_and_an_even_one_has_no_rank() -> None:
    rows = {"activations": [[3, 1, 2], [4, 4, 4]], "weights": [[1.5, 0.5, 1.0], [2.0, 2.0, 2.0]]}
    found = load.statistics(rows, rows)
    assert found["spearman"] == [pytest.approx(1.0), None]
    assert found["entropy_change"] == pytest.approx([0, 0])
    assert found["divergence"] == pytest.approx([0, 0])
    summed = load.summary(found)
    assert summed["spearman_least"] == summed["spearman_mean"] == pytest.approx(1)
    assert load.summary({"spearman": [None]}) == {}


def test_a_load_that_differs_by_a_factor_alone_diverges_by_nothing() -> None:
    """Rounding leaves about half of such layers a little below 0."""
    weights = np.random.default_rng(1).uniform(0, 50, (50, 64)).round(4)
    sides = [{"activations": np.ones((50, 64)), "weights": side} for side in (weights, 1.1 * weights)]
    found = load.statistics(*sides)["divergence"]
    assert found == pytest.approx([0.0] * 50, abs=1e-12)
    assert all(value is not None and value >= 0 for value in found)


def test_records_hold_what_the_statistics_need_and_are_made_once(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    found = load.ANALYSIS.run(made)
    whole, *planned = found
    assert whole.method == "original"
    assert {r.method for r in planned} == {*load.METHODS, "alloc-moe"}
    assert len({r.budget for r in planned if r.method == "alloc-moe"}) == len(made.budgets)
    for record in planned:
        again = load.summary(load.statistics(whole.samples, record.samples))
        assert record.metrics == pytest.approx(again)
        assert record.about == "analysis"
    assert any(r.metrics["divergence_most"] > 0 for r in planned)
    size = made.out.stat().st_size
    assert [r.key for r in load.ANALYSIS.run(made)] == [r.key for r in found]
    assert made.out.stat().st_size == size, "nothing is measured twice"
    assert [r.to_dict() for r in records.load(made.out)] == [json.loads(json.dumps(r.to_dict())) for r in found]


def test_an_interrupted_analysis_goes_on(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    found = load.ANALYSIS.run(made)
    lines = made.out.read_bytes().splitlines(keepends=True)
    made.out.write_bytes(b"".join(lines[:2]) + lines[2][:100])
    again = load.ANALYSIS.run(made)
    assert [(r.key, r.samples) for r in again] == [(r.key, r.samples) for r in found]
    assert made.out.read_bytes().splitlines(keepends=True)[:2] == lines[:2]


def test_another_text_is_another_measurement(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    first = load.ANALYSIS.run(setting(out))
    second = load.ANALYSIS.run(setting(out, text=text(seed=9)))
    assert len(records.load(out)) == len(first) + len(second)
