"""The shipped checkpoints are what their cards say: the right shape, alive, and worth measuring."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from allocmoe import methods, mini
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.mini.configs import CONFIGS
from allocmoe.mini.items import TASKS
from allocmoe.spec import PAPER_BUDGETS, MoESpec

pytestmark = pytest.mark.whole

torch.set_num_threads(1)

# (layers, experts, top-k, shared experts), the largest file in bytes
SHAPES = {
    "mini-olmoe": ((16, 64, 8, 0), 8_000_000),
    "mini-qwen": ((24, 60, 4, 1), 10_000_000),
    "mini-deepseek": ((26, 64, 6, 2), 14_000_000),
}
everyone = pytest.mark.parametrize("name", mini.shipped())


@cache
def engine(name: str) -> HFEngine:
    return HFEngine.load(mini.resolve(name))


def test_all_shipped_models_in_thirty_megabytes() -> None:
    assert {"mini-olmoe", "mini-qwen"} <= set(mini.shipped()) <= set(SHAPES) == set(CONFIGS)
    files = list(mini.MODELS.glob("*/*.safetensors"))
    assert len(files) == len(mini.shipped())
    assert sum(f.stat().st_size for f in files) <= 30_000_000


@pytest.mark.parametrize("name", CONFIGS)
def test_the_routing_shape_is_the_real_model_s(name: str) -> None:
    spec, (shape, _) = MoESpec.from_config(CONFIGS[name]()), SHAPES[name]
    assert (spec.layers, spec.experts, spec.top_k, spec.shared) == shape
    assert (spec.scoring, spec.renormalise) == ("softmax", False)
    assert tuple(spec.budgets()) == PAPER_BUDGETS[shape[:3]]


@everyone
def test_a_checkpoint_is_of_its_config_and_small(name: str) -> None:
    model, folder = engine(name), mini.resolve(name)
    assert model.spec == MoESpec.from_config(CONFIGS[name]())
    assert (folder / "model.safetensors").stat().st_size <= SHAPES[name][1]
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    ours = CONFIGS[name]().to_dict()
    same = (set(ours) & set(config)) - {"dtype", "architectures"}
    assert {k: config[k] for k in same} == {k: ours[k] for k in same}


@everyone
def test_no_expert_is_dead_and_fewer_experts_cost_quality(name: str) -> None:
    model = engine(name)
    text, whole = windows(model.tokenizer, "mini-test", 16, 256), model.spec.original_budget
    found = []
    for budget in (whole, whole // 2, model.spec.layers):
        method = "original" if budget == whole else "uniform"
        with model.using(methods.allocate(method, model.spec, model.fingerprint, budget)), model.count() as spent:
            found.append(perplexity(model, text, 8).value)
            if budget == whole:
                assert (spent.load > 0).float().mean() >= 0.99
    assert found[0] < found[1] < found[2]
    assert found[2] > 1.1 * found[0]


@everyone
def test_tasks_are_above_chance_and_below_perfect(name: str) -> None:
    """On most of them, or they would measure nothing. 60 items give about 6 points of standard error."""
    suite = TaskSuite(engine(name))
    found = scores(suite.run(60), suite.groups)
    lift = {task: found[f"acc/{task}"] - TASKS[task].chance for task in TASKS}
    assert sum(gain > 0.1 for gain in lift.values()) >= 6, lift
    assert sum(found[f"acc/{task}"] < 0.99 for task in TASKS) >= 7, found
