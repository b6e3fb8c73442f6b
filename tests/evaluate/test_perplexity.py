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
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate import perplexity as reading
from allocmoe.evaluate.perplexity import BINS, Distance, Reference, perplexity
from allocmoe.evaluate.quality import evaluate
from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.plan import Plan

pytestmark = pytest.mark.whole

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


def test_with_a_reference_the_losses_do_not_change_by_a_bit(engine: HFEngine, text: Windows) -> None:
    reference = Reference(engine, text, 3)
    for plan in (None, planned(engine, "uniform"), planned(engine, "alloc-t")):
        with engine.using(plan):
            found = perplexity(engine, text, 3, reference)
            assert found.nll == perplexity(engine, text, 3).nll
        assert found.distance
        assert (found.distance.means()["kl"] == 0) == (plan is None)


def test_states_that_do_not_fit_are_made_anew(engine: HFEngine, text: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, passes = Reference(engine, text, 4), []
    hook = engine.model.base_model.register_forward_hook(lambda *_: passes.append(1))
    size = whole.states(0).numel() * 4
    monkeypatch.setattr(reading, "REFERENCE_BYTES", size + 1)
    bounded = Reference(engine, text, 4)
    for _ in range(2):
        for number in range(3):
            assert torch.equal(bounded.states(number), whole.states(number))
    hook.remove()
    # of three batches the first fits, and the last, which is half as long, does not fit beside it
    assert len(passes) == 3 + (1 + 2 + 2)


def test_the_distance_is_told_by_position_and_kind() -> None:
    rng = np.random.default_rng(0)
    kl, flips = rng.uniform(size=(4, 21)), rng.uniform(size=(4, 21)) < 0.3
    found = Distance(torch.tensor(kl), torch.tensor(flips))
    assert found.means() == pytest.approx({"kl": kl.mean(), "flips": flips.mean()})
    parts = np.array_split(np.arange(21), BINS)
    told = found.by_position()
    assert told["first"] == [p[0] + 1 for p in parts]
    assert told["kl"] == pytest.approx([kl[:, p].mean() for p in parts])
    assert told["flips"] == pytest.approx([flips[:, p].mean() for p in parts])
    assert len(Distance(torch.zeros(2, 3), torch.zeros(2, 3)).by_position()["kl"]) == 3
    kinds = rng.integers(0, 2, (4, 22))
    by_kind = found.by_kind({name: torch.tensor(kinds == number) for number, name in enumerate("abc")})
    assert set(by_kind) == {"a", "b"}
    for number, name in enumerate("ab"):
        mine = kinds[:, 1:] == number
        wanted = {"tokens": mine.sum(), "kl": kl[mine].mean(), "flips": flips[mine].mean()}
        assert by_kind[name] == pytest.approx(wanted)


def test_a_record_tells_the_distance_and_the_original_has_none(engine: HFEngine, text: Windows, tmp_path: Path) -> None:
    original = allocate("original", engine.spec, engine.fingerprint, engine.spec.original_budget)
    path = tmp_path / "records.jsonl"
    evaluate(engine, [original, planned(engine, "uniform")], text, path, text_batch=4, progress=False)
    same, half = records.load(path)
    for name in ("kl", "flips"):
        assert same.metrics[name] == 0
        assert not any(same.samples[name])
        assert half.metrics[name] == pytest.approx(np.mean(half.samples[name]))
        assert half.metrics[name] > 0.01
        assert len(half.samples[name]) == len(half.samples["nll"])
        kinds = half.details["by_kind"].values()
        assert sum(k["tokens"] for k in kinds) == 47 * len(text.ids)
        assert sum(k["tokens"] * k[name] for k in kinds) == pytest.approx(47 * len(text.ids) * half.metrics[name])
        assert len(half.details["by_position"][name]) == BINS
    assert "passes" not in half.setup, "records from before there was a choice must keep their key"


def test_as_decode_is_another_setup_and_counts_steps(engine: HFEngine, text: Windows, tmp_path: Path) -> None:
    plan, path = planned(engine, "alloc-t"), tmp_path / "records.jsonl"
    (whole,), (steps,) = (
        evaluate(engine, [plan], text, path, text_batch=5, passes=passes, progress=False)
        for passes in ("prefill", "decode")
    )
    assert steps.setup == whole.setup | {"passes": "decode"}
    assert np.median(np.abs(np.subtract(whole.samples["nll"], steps.samples["nll"]))) > 1e-4
    assert steps.spent["per_token"] == pytest.approx(plan.budget)
    most = [5 * k for k in plan.layers]
    assert all(d <= m + 1e-4 for d, m in zip(steps.spent["distinct_per_layer"], most, strict=True))
    assert np.mean(steps.spent["distinct_per_layer"]) < np.mean(whole.spent["distinct_per_layer"])
    with engine.using(plan), engine.as_decode():
        assert perplexity(engine, text, 5).nll == tuple(steps.samples["nll"])


def test_passes_that_are_unknown_or_cannot_be_had_are_refused(
    engine: HFEngine, text: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, path = planned(engine, "uniform"), tmp_path / "records.jsonl"
    with pytest.raises(AllocMoEError, match=r"unknown passes .*: expected prefill or decode"):
        evaluate(engine, [plan], text, path, passes="both", progress=False)
    monkeypatch.setattr(HFEngine, "full_logits", False)
    with pytest.raises(AllocMoEError, match="use the transformers engine"):
        evaluate(engine, [plan], text, path, passes="decode", progress=False)
    (record,) = evaluate(engine, [plan], text, path, progress=False)
    assert not {"kl", "flips"} & {*record.metrics, *record.samples}
    assert not {"by_position", "by_kind"} & set(record.details)
