"""What layers are allocated from, compared: the whole script on little text."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from allocmoe import records
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.mini import resolve
from allocmoe.spec import MoESpec
from bench.profiles import alone, main

pytestmark = pytest.mark.slow


def test_every_source_allocates_every_budget_and_is_measured(tmp_path: Path) -> None:
    main("mini-qwen", tmp_path / "r.jsonl", calibration=1, held_out=2)
    (record,) = records.load(tmp_path / "r.jsonl")
    budgets = MoESpec.from_folder(resolve("mini-qwen")).budgets()
    for source, budget in itertools.product(record.setup["compared"], budgets):
        assert sum(record.details["layers"][f"{source}/{budget}"]) == pytest.approx(budget)
        assert record.metrics[f"kl/{source}/{budget}"] == pytest.approx(
            sum(record.samples[f"kl/{source}/{budget}"]) / 2, rel=1e-6
        )
    assert record.metrics["over/algorithm 1"] == 1


@torch.no_grad()
def test_a_profile_of_single_layers_leaves_the_model_as_it_was() -> None:
    engine = HFEngine.load(resolve("mini-qwen"))
    spec, text = engine.spec, windows(engine.tokenizer, "mini-train", 1, 32)
    before = engine.model(text.ids).logits
    layers = alone(engine, text, [[1.0] * spec.experts] * spec.layers, spec.top_k / 2)
    assert sum(layers(50)) == 50
    assert torch.equal(engine.model(text.ids).logits, before)
