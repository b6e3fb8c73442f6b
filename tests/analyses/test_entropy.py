"""Kept experts against routing entropy: against loops over tokens and scipy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from allocmoe.analyses import entropy
from allocmoe.routing import Scoring
from tests.analyses.small import BATCH, decisions, setting
from tests.analyses.test_load import pearson, ranks
from tests.engines.loops import softmax


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "deepseek_v2"])
def test_what_is_seen_is_what_loops_see(family: str, tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl", family)
    plan = made.plans(["alloc-t"], [made.half])[1]
    entropies, kept = entropy.seen(made.engine, plan, made.text, BATCH)
    wanted, logits = decisions(made.engine, plan, made.text, BATCH)
    assert kept.tolist() == [[len(pairs) for pairs in rows] for rows in wanted]
    assert len({n for row in kept.tolist() for n in row}) > 2, "tokens must differ"
    shares = [[softmax(row) for row in rows] for rows in logits]
    among = [shares, [[sorted(s)[-made.engine.spec.top_k :] for s in rows] for rows in shares]]
    assert len(entropies) == len(entropy.KINDS)
    for found, parts in zip(entropies, among, strict=True):
        by_hand = [[of(s) for s in rows] for rows in parts]
        assert np.allclose(found, by_hand, rtol=1e-5)
        related = entropy.correlations(found, kept)
        for layer, numbers in enumerate(kept.tolist()):
            assert related["pearson"][layer] == pytest.approx(pearson(by_hand[layer], numbers), abs=1e-5)
            ranked = pearson(ranks(by_hand[layer]), ranks(numbers))
            assert related["spearman"][layer] == pytest.approx(ranked, abs=1e-5)
            assert related["spearman"][layer] == pytest.approx(scipy_stats.spearmanr(found[layer], numbers)[0])


def of(parts: list[float]) -> float:
    """Normalised entropy of parts of any sum."""
    shares = [p / math.fsum(parts) for p in parts]
    return -math.fsum(p * math.log(p) for p in shares) / math.log(len(shares))


def test_entropy_lies_between_its_ends() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0]])
    experts, candidates = entropy.normalised_entropies(logits, Scoring(), 2).tolist()
    assert experts == pytest.approx([1.0, 0.0, 0.5], abs=1e-2)
    assert candidates == pytest.approx([1.0, 0.0, 1.0])
    sigmoid = entropy.normalised_entropies(torch.tensor([[0.0, 0.0], [50.0, -50.0]]), Scoring("sigmoid"), 1)
    assert sigmoid.tolist() == [pytest.approx([1.0, 0.0]), pytest.approx([0.0, 0.0])]


def test_where_all_tokens_keep_the_same_there_is_no_correlation() -> None:
    values = np.array([[0.1, 0.5, 0.9], [0.1, 0.5, 0.9]])
    found = entropy.correlations(values, np.array([[2, 2, 2], [1, 2, 3]]))
    assert found["pearson"][0] is found["spearman"][0] is None
    assert (found["pearson"][1], found["spearman"][1]) == pytest.approx((1.0, 1.0))


def test_bins_hold_every_token_once() -> None:
    rng = np.random.default_rng(1)
    values, numbers = rng.uniform(size=(3, 200)), rng.integers(0, 5, (3, 200))
    found = entropy.binned(values, numbers, 4)
    for layer in range(3):
        edges, counts = found["edges"][layer], np.array(found["counts"][layer])
        assert counts.sum(0).tolist() == np.bincount(numbers[layer], minlength=5).tolist()
        assert counts.sum(1).tolist() == [20] * entropy.BINS
        assert edges == sorted(edges)
        inside = (values[layer] >= edges[3]) & (values[layer] < edges[4])
        mean = entropy.mean_kept(found["counts"][layer])[3]
        assert mean == pytest.approx(numbers[layer][inside].mean(), rel=1e-3)
    assert entropy.mean_kept([[0, 0], [1, 3]]) == [None, 0.75]


def test_records_are_made_once_and_hold_the_least_of_their_layers(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl")
    found = entropy.ANALYSIS.run(made)
    assert [r.method for r in found] == list(entropy.METHODS)
    for record in found:
        for kind in entropy.KINDS:
            known = [v for v in record.samples[kind]["pearson"] if v is not None]
            assert record.metrics[f"{kind}_pearson_least"] == min(known)
        assert record.metrics["layers_that_vary"] == len(known)
        assert record.metrics["tokens"] == made.text.ids.numel() == np.sum(record.samples["experts"]["counts"][0])
        assert sum(record.samples["kept"]) == pytest.approx(record.budget, abs=0.1)
    size = made.out.stat().st_size
    entropy.ANALYSIS.run(made)
    assert made.out.stat().st_size == size
