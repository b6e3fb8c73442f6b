"""Perplexity against a loop over single windows in float64, and what the batching changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from allocmoe import records
from allocmoe.data.text import Windows, windows
from allocmoe.engines import head as module
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.evaluate.quality import evaluate
from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.plan import Plan

MODEL = resolve("mini-olmoe")
torch.set_num_threads(1)  # many small products: more threads only wait for each other


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(MODEL)


@pytest.fixture(scope="module")
def text(engine: HFEngine) -> Windows:
    return windows(engine.tokenizer, "mini-test", 10, 48)


def assert_same(found: Sequence[float], wanted: Sequence[float]) -> None:
    """Equal to 1e-5. A routing tie that rounding decides may move a window further, but only a few of them."""
    gap = np.abs(np.divide(found, wanted) - 1)
    assert gap.max() < 1e-2
    assert (gap < 1e-5).mean() >= 0.7, gap


def planned(engine: HFEngine, method: str) -> Plan:
    return allocate(method, engine.spec, engine.fingerprint, engine.spec.original_budget // 2)


@pytest.fixture(scope="module")
def oracle(text: Windows) -> list[float]:
    """Mean NLL of each window: the unchanged model through plain transformers, one window at a time."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for row in text.ids:
            logits = model(row[None]).logits[0].numpy().astype(np.float64)
            total = 0.0
            for position, target in enumerate(row[1:].tolist()):
                scores = logits[position]
                top = scores.max()
                total += top + math.log(math.fsum(np.exp(scores - top))) - scores[target]
            found.append(total / (len(row) - 1))
    return found


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_perplexity_is_that_of_the_float64_loop(
    engine: HFEngine, text: Windows, oracle: list[float], batch: int
) -> None:
    found = perplexity(engine, text, batch)
    assert_same(found.nll, oracle)
    assert found.value == pytest.approx(math.exp(sum(oracle) / len(oracle)), rel=1e-4)
    assert found.value == pytest.approx(math.exp(sum(found.nll) / len(found.nll)), rel=1e-12)
    assert found.predicted == len(found.nll) * 47


def test_the_original_plan_is_the_unchanged_model(engine: HFEngine, text: Windows, oracle: list[float]) -> None:
    plan = allocate("original", engine.spec, engine.fingerprint, engine.spec.original_budget)
    with engine.using(plan):
        assert_same(perplexity(engine, text, 2).nll, oracle)


def test_batching_does_not_matter_for_top_k(engine: HFEngine, text: Windows, oracle: list[float]) -> None:
    with engine.using(planned(engine, "uniform")):
        alone, together = (perplexity(engine, text, batch).nll for batch in (1, 3))
    assert_same(alone, together)
    assert np.abs(np.subtract(alone, oracle)).min() > 1e-4, "the plan was not in force"


def test_batching_matters_for_alloc_t_and_is_recorded(engine: HFEngine, text: Windows, tmp_path: Path) -> None:
    plan, path = planned(engine, "alloc-t"), tmp_path / "records.jsonl"
    (small,), (large,), (again,) = (
        evaluate(engine, [plan], text, path, text_batch=batch, progress=False) for batch in (1, 5, 1)
    )
    difference = np.abs(np.subtract(small.samples["nll"], large.samples["nll"]))
    assert np.median(difference) > 1e-4
    assert (small.setup["text_batch"], large.setup["text_batch"]) == (1, 5)
    assert small.key != large.key, "one would pass for the other in a resumed run"
    assert again == small
    assert len(records.load(path)) == 2
    for record in (small, large):
        assert record.spent["per_token"] == pytest.approx(plan.budget)


def test_the_size_of_the_pieces_of_logits_does_not_matter(
    engine: HFEngine, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = perplexity(engine, text, 5).nll
    monkeypatch.setattr(module, "HEAD_BYTES", {"cpu": 1})
    np.testing.assert_allclose(perplexity(engine, text, 5).nll, whole, rtol=1e-6)
