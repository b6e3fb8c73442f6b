"""Soft counts, saliency and norms against loops over tokens and experts in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, GraniteMoeConfig, Qwen3MoeConfig

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate
from allocmoe.profile.algorithm1 import block_of
from allocmoe.profile.quantities import QUANTITIES, Setting, saliency
from allocmoe.spec import MoESpec
from tests.conftest import SMALL, tiny

TEXT = Windows(torch.randint(1, 96, (5, 9), generator=torch.Generator().manual_seed(0)), "random")


def normalised() -> HFEngine:
    """A family that renormalises its weights over K."""
    torch.manual_seed(3)
    config = Qwen3MoeConfig(
        **SMALL, num_hidden_layers=2, num_experts=10, num_experts_per_tok=3, moe_intermediate_size=8, head_dim=16,
        norm_topk_prob=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).double()
    return HFEngine(model, MoESpec.from_config(config), "tiny", "mark")


ENGINES = {family: lambda family=family: tiny(family) for family in ("olmoe", "qwen2_moe", "deepseek_v2")}
ENGINES |= {"qwen3_moe": normalised}


def by_hand(engine: HFEngine) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All three, from what goes into every router: one window at a time, one token at a time, one expert at a time."""
    layers, experts, top = engine.spec.layers, engine.spec.experts, engine.spec.top_k
    counts, saliencies, norms, routed = (np.zeros((layers, experts)) for _ in range(4))
    inputs: list[list[torch.Tensor]] = [[] for _ in range(layers)]
    hooks = [
        router.register_forward_hook(lambda _m, args, _o, mine=mine: mine.append(args[0].reshape(-1, 32)))
        for router, mine in zip(engine.routers, inputs, strict=True)
    ]
    with torch.no_grad():
        for row in TEXT.ids:
            engine.model(row[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        for layer in range(layers):
            module: Any = block_of(engine, layer).experts
            router: Any = engine.routers[layer]
            for x in torch.cat(inputs[layer]):
                logits = (router.weight @ x).tolist()
                total = math.fsum(map(math.exp, logits))
                scores = [math.exp(v) / total for v in logits]
                counts[layer] += scores
                best = sorted(range(experts), key=lambda e: -scores[e])[:top]
                mass = math.fsum(scores[e] for e in best) if engine.spec.renormalise else 1.0
                for e in best:
                    gate, up = (module.gate_up_proj[e] @ x).chunk(2)
                    norm = float((module.down_proj[e] @ (F.silu(gate) * up)).norm())
                    saliencies[layer, e] += scores[e] / mass * norm
                    norms[layer, e] += norm
                    routed[layer, e] += 1
    means = np.repeat(norms.sum(1, keepdims=True) / routed.sum(1, keepdims=True), experts, axis=1)
    return (
        counts,
        np.divide(saliencies, routed, out=np.zeros_like(saliencies), where=routed > 0),
        np.divide(norms, routed, out=means, where=routed > 0),  # an expert that nobody chose is like the others
    )


@pytest.mark.parametrize("name", ENGINES)
def test_they_are_their_definitions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ENGINES[name]()
    counts, saliencies, norms = by_hand(engine)
    for rows, batch in ((1024, 5), (7, 2)):
        monkeypatch.setattr(saliency, "ROWS", rows)
        setting = Setting(engine, TEXT, batch, progress=False)
        for quantity, wanted in (("soft_counts", counts), ("saliency", saliencies), ("norms", norms)):
            found, facts = QUANTITIES[quantity].measure(setting)
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-9)
            QUANTITIES[quantity].check(found, engine.spec)
            assert facts == {"windows": 5}


@pytest.mark.parametrize("name", ["soft_counts", "saliency", "norms"])
def test_a_plan_in_force_is_put_aside_and_back(name: str) -> None:
    engine = tiny("olmoe")
    alone, _ = QUANTITIES[name].measure(Setting(engine, TEXT, 3, progress=False))
    plan = allocate("uniform", engine.spec, engine.fingerprint, engine.spec.layers)
    with torch.no_grad(), engine.using(plan):
        before = engine.model(TEXT.ids).logits
        again, _ = QUANTITIES[name].measure(Setting(engine, TEXT, 3, progress=False))
        assert again == alone
        assert engine.plan == plan
        assert torch.equal(engine.model(TEXT.ids).logits, before)


def test_soft_counts_add_up_to_the_tokens() -> None:
    found, _ = QUANTITIES["soft_counts"].measure(Setting(tiny("qwen2_moe"), TEXT, 2, progress=False))
    np.testing.assert_allclose(np.sum(found, axis=1), TEXT.ids.numel(), rtol=1e-5)


@pytest.mark.parametrize("name", ["soft_counts", "saliency", "norms"])
def test_a_router_that_gives_no_logits_first_is_refused(name: str) -> None:
    config = GraniteMoeConfig(
        vocab_size=96, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    engine = HFEngine(AutoModelForCausalLM.from_config(config), MoESpec.from_config(config), "granite", "0" * 16)
    with pytest.raises(AllocMoEError, match="granitemoe"):
        QUANTITIES[name].measure(Setting(engine, TEXT, 2, progress=False))
