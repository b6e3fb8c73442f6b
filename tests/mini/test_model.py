"""The shipped checkpoint is what its card says: the right shape, alive, and worth measuring."""

from __future__ import annotations

import json

import pytest
import torch

from allocmoe import methods, mini
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.evaluate.tasks import TaskSuite, scores
from allocmoe.evaluate.text import windows
from allocmoe.mini.items import TASKS
from allocmoe.spec import PAPER_BUDGETS

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> HFEngine:
    return HFEngine.load(mini.resolve("mini-olmoe"))


def test_the_routing_shape_is_olmoe_s(model: HFEngine) -> None:
    spec = model.spec
    assert (spec.layers, spec.experts, spec.top_k) == (16, 64, 8)
    assert (spec.scoring, spec.renormalise, spec.shared) == ("softmax", False, 0)
    assert tuple(spec.budgets()) == PAPER_BUDGETS[16, 64, 8]
    folder = mini.resolve("mini-olmoe")
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert sum(p.numel() for p in model.model.parameters()) == pytest.approx(3.7e6, rel=0.05)


def test_no_expert_is_dead_and_fewer_experts_cost_quality(model: HFEngine) -> None:
    text = windows(model.tokenizer, "mini-test", 16, 256)
    found = {}
    for budget in (128, 64, 32, 16):
        name = "original" if budget == 128 else "uniform"
        with model.using(methods.allocate(name, model.spec, model.fingerprint, budget)), model.count() as spent:
            found[budget] = perplexity(model, text, 8).value
            if budget == 128:
                assert (spent.load > 0).float().mean() >= 0.99
    assert found[128] < found[64] < found[32] < found[16]
    assert found[16] > 1.1 * found[128]


def test_tasks_are_above_chance_and_below_perfect(model: HFEngine) -> None:
    """On most of them, or they would measure nothing. 100 items give about 5 points of standard error."""
    suite = TaskSuite(model)
    found = scores(suite.run(100), suite.groups)
    lift = {name: found[f"acc/{name}"] - TASKS[name].chance for name in TASKS}
    assert sum(gain > 0.1 for gain in lift.values()) >= 6, lift
    assert sum(found[f"acc/{name}"] < 0.99 for name in TASKS) >= 7, found
