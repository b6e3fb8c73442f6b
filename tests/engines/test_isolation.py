"""What a request gets under a causal plan does not depend on who shares its batch; under Alloc-T it does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine
from allocmoe.methods import allocate, needs
from allocmoe.mini import resolve
from allocmoe.plan import Plan
from allocmoe.profile.run import kept

pytestmark = pytest.mark.whole
LENGTH = 24
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(resolve("mini-olmoe"))


@pytest.fixture(scope="module")
def plans(engine: HFEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    names = ("uniform", "alloc-t", "alloc-t-causal", "alloc-moe-causal", "alloc-c-causal")
    text = windows(engine.tokenizer, "mini-train", 2, 64)
    beside = tmp_path_factory.mktemp("profile") / "p.json"
    known = kept(engine, text, 2, beside, quantities=needs(names), progress=False)
    half = engine.spec.original_budget // 2
    return {name: allocate(name, engine.spec, engine.fingerprint, half, known) for name in names}


def neighbours(engine: HFEngine) -> list[Tensor]:
    """[LENGTH] tokens each: text, one token over and over, all kinds of tokens."""
    text: Windows = windows(engine.tokenizer, "mini-test", 4, LENGTH)
    generator = torch.Generator().manual_seed(1)
    random = torch.randint(engine.vocabulary, (4, LENGTH), generator=generator)
    return [*text.ids[1:], *random, *(torch.full((LENGTH,), token) for token in (0, 5, 17))]


def victim(engine: HFEngine, plan: Plan) -> list[Tensor]:
    """The first row's log-probabilities, beside every neighbour."""
    ids = windows(engine.tokenizer, "mini-test", 1, LENGTH).ids[0]
    with engine.using(plan), torch.no_grad():
        return [
            engine.model(torch.stack([ids, other])).logits[0].log_softmax(-1) for other in neighbours(engine)
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["uniform", "alloc-t-causal", "alloc-moe-causal", "alloc-c-causal"])
def test_no_neighbour_moves_an_answer(engine: HFEngine, plans: dict[str, Plan], name: str) -> None:
    """But for rounding: transformers multiplies an expert's tokens at once, and how that rounds depends on how many
    they are, under top-k too. In vLLM not a bit moves."""
    first, *others = victim(engine, plans[name])
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-4)


def test_under_alloc_t_neighbours_move_it(engine: HFEngine, plans: dict[str, Plan]) -> None:
    first, *others = victim(engine, plans["alloc-t"])
    assert max(float((other - first).abs().max()) for other in others) > 0.05


def test_what_was_allocated_is_spent_in_expectation(engine: HFEngine, plans: dict[str, Plan]) -> None:
    text = windows(engine.tokenizer, "mini-train", 2, 64)
    for name in ("alloc-t-causal", "alloc-moe-causal", "alloc-c-causal"):
        with engine.using(plans[name]), engine.count() as spent:
            engine.backbone(text.ids)
        assert spent.summary()["per_token"] == pytest.approx(plans[name].budget, rel=0.1)
