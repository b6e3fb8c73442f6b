"""The head's losses, divergences and flips against loops over logits in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from allocmoe.engines import head
from allocmoe.engines.head import divergence, window_nll, window_scores
from allocmoe.methods import allocate
from tests.conftest import FAMILIES, tiny

IDS = torch.randint(1, 96, (3, 17), generator=torch.Generator().manual_seed(5))


def softmax(logits: np.ndarray) -> np.ndarray:
    parts = [math.exp(x - logits.max()) for x in logits]
    return np.array(parts) / math.fsum(parts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_those_of_loops_over_logits(family: str, dtype: torch.dtype) -> None:
    engine = tiny(family, dtype)
    plan = allocate("uniform", engine.spec, engine.fingerprint, engine.spec.layers * 2)
    with torch.no_grad():
        original = engine.model(input_ids=IDS, use_cache=False).logits.numpy().astype(np.float64)
        with engine.using(plan):
            planned = engine.model(input_ids=IDS, use_cache=False).logits.numpy().astype(np.float64)
    with engine.using(plan):
        found = engine.scores(IDS, engine.reference(IDS))
        assert torch.equal(found.nll, engine.nll(IDS)), "losses must not change by a bit"
    for window, position in np.ndindex(len(IDS), IDS.shape[1] - 1):
        p, q = softmax(original[window, position]), softmax(planned[window, position])
        assert float(found.kl[window, position]) == pytest.approx(math.fsum(rel_entr(p, q)), rel=1e-3, abs=1e-9)
        assert bool(found.flips[window, position]) == (p.argmax() != q.argmax())
    assert 0 < found.flips.double().mean() < 1
    assert found.kl.min() > 0


def test_divergence_is_scipys() -> None:
    logits = torch.randn(2, 50, 300, generator=torch.Generator().manual_seed(0)) * 8
    logits[1, :25] = logits[0, :25] + 1e-4 * logits[1, :25]  # nearly the same
    p, q = logits.double().softmax(-1).numpy()
    np.testing.assert_allclose(divergence(*logits), rel_entr(p, q).sum(-1), rtol=1e-6, atol=1e-15)


def test_the_unchanged_model_is_at_no_distance_from_itself(engine: Any) -> None:
    plan = allocate("original", engine.spec, engine.fingerprint, engine.spec.original_budget)
    with engine.using(plan):
        found = engine.scores(IDS, engine.reference(IDS))
    assert not found.kl.any()
    assert not found.flips.any()


def test_the_reference_leaves_plan_and_counts_alone(engine: Any) -> None:
    plan = allocate("uniform", engine.spec, engine.fingerprint, engine.spec.layers)
    untouched = engine.backbone(IDS)
    with engine.using(plan), engine.count() as spent:
        assert torch.equal(engine.reference(IDS), untouched)
        assert not spent.passes.any()
        engine.nll(IDS)
        assert set(spent.activations.tolist()) == {IDS.numel()}


def test_pieces_do_not_matter(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = allocate("uniform", engine.spec, engine.fingerprint, engine.spec.layers)
    weights = engine.model.get_output_embeddings()
    with engine.using(plan):
        states, reference = engine.backbone(IDS), engine.reference(IDS)
        whole = window_scores(weights, states, reference, IDS)
        monkeypatch.setattr(head, "HEAD_BYTES", {"cpu": 5 * 4 * 96})
        pieces = window_scores(weights, states, reference, IDS)
    for one, two in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)
    assert torch.equal(window_nll(weights, states, IDS), pieces.nll)
