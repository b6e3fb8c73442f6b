"""Generated answers under a plan: one that has ended is padding to the others of its batch."""

from __future__ import annotations

import math

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.tasks.planned import PlannedLM
from allocmoe.methods import allocate
from allocmoe.mini import resolve

pytestmark = pytest.mark.whole

PROMPTS = ["44 - 38 =", "Tom has 7 apples. Ann gives Tom 5 apples. Now Tom has", "2, 4, 6, 8,", "1 + 1 ="]
SETTINGS = {"until": ["."], "max_gen_toks": 24, "do_sample": False}
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(resolve("mini-olmoe"))


def requests(prompts: list[str]) -> list[Instance]:
    return [Instance("generate_until", {}, (prompt, dict(SETTINGS)), i) for i, prompt in enumerate(prompts)]


def test_the_original_model_writes_what_lm_eval_s_own_backend_reads(engine: HFEngine) -> None:
    theirs = HFLM(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=4)
    found = PlannedLM(engine, 4).generate_until(requests(PROMPTS), disable_tqdm=True)
    assert found == theirs.generate_until(requests(PROMPTS), disable_tqdm=True)
    assert len({len(engine.tokenizer(text)["input_ids"]) for text in found}) > 1, "all end at the same place"


def test_an_answer_that_has_ended_neither_gets_nor_takes_budget(engine: HFEngine) -> None:
    """Every real token runs once, whatever else is in the batch; a layer's budget is that of its real tokens."""

    def tokens(count: int) -> list[int]:
        with engine.count() as spent:
            PlannedLM(engine, count).generate_until(requests(PROMPTS), disable_tqdm=True)
            return spent.tokens.tolist()

    alone = tokens(1)
    assert tokens(4) == alone
    plan = allocate("alloc-t", engine.spec, engine.fingerprint, engine.spec.original_budget * 5 // 8 + 3)
    valid: list[int] = []
    handle = engine.routers[0].register_forward_hook(
        lambda _m, _a, out: valid.append(len(out[2]) if engine._valid is None else int(engine._valid.sum()))
    )
    try:
        with engine.using(plan), engine.count() as spent:
            PlannedLM(engine, 4).generate_until(requests(PROMPTS), disable_tqdm=True)
            kept = spent.activations.clone()
    finally:
        handle.remove()
    assert min(valid) < len(PROMPTS), "no answer ended before the others"
    for layer, k in enumerate(plan.layers):
        assert int(kept[layer]) == sum(math.floor(k * n) for n in valid)
