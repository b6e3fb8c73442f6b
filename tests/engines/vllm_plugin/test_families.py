"""Families beyond the paper's three: weights made to sum to one, sigmoid scores. Both engines agree there too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Glm4MoeConfig, MixtralConfig, PretrainedConfig, Qwen3MoeConfig

from allocmoe.methods import allocate
from allocmoe.plan import Plan
from tests.engines.vllm_plugin import oracle

pytestmark = pytest.mark.vllm


def config(family: str) -> PretrainedConfig:
    shape: dict[str, Any] = {**oracle.NARROW, "num_hidden_layers": 3}
    if family == "mixtral":
        return MixtralConfig(**shape, num_local_experts=8, num_experts_per_tok=2, intermediate_size=32)
    shape |= {"num_experts_per_tok": 4, "moe_intermediate_size": 32, "intermediate_size": 64, "head_dim": 32}
    if family == "qwen3_moe":
        return Qwen3MoeConfig(**shape, num_experts=16, norm_topk_prob=True)
    return Glm4MoeConfig(
        **shape, first_k_dense_replace=1, n_routed_experts=16, n_shared_experts=1, n_group=4, topk_group=2,
        norm_topk_prob=True, routed_scaling_factor=1.5,
    )  # fmt: skip


def beyond(hf: Any, budget: int, reference: str) -> list[Plan]:
    """Plans whose rules look beyond the router's K experts, none of which needs a profile here."""
    oea = allocate("oea", hf.spec, hf.fingerprint, budget, reference=reference)
    over = replace(oea, token_rule="alloc_t_refill", parameters={**oea.parameters, "k_base": 1})
    return [oea, over, allocate("xshare", hf.spec, hf.fingerprint, budget, reference=reference, batch=16)]


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "glm4_moe"])
def test_agreement(family: str, tmp_path: Path) -> None:
    from allocmoe.engines.vllm.engine import VLLMEngine

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config(family), dtype=torch.float32)
    for name, tensor in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # so that GLM's order is not that of its weights
            tensor.copy_(torch.randn(tensor.shape) * 0.1)
    model.save_pretrained(tmp_path / family)
    hf = oracle.load(tmp_path / family)
    engine = VLLMEngine.load(tmp_path / family, skip_tokenizer_init=True, max_model_len=64)
    ids = torch.randint(128, (3, 20), generator=torch.Generator().manual_seed(2))
    full = hf.spec.original_budget
    results = {}
    try:
        for reference in ("original", "survivors"):
            for method, budget in (("original", full), ("uniform", full // 2), ("alloc-t", full // 2)):
                plan = allocate(method, hf.spec, hf.fingerprint, budget, reference=reference)
                with hf.using(plan), engine.using(plan), engine.count() as spent:
                    here, there = engine.nll(ids), hf.nll(ids)
                torch.testing.assert_close(here, there, atol=2e-3, rtol=0)  # summed over 19 tokens
                assert spent.summary()["per_token"] == pytest.approx(budget)
                results[reference, method] = here
            for plan in beyond(hf, full // 2, reference):
                with hf.using(plan), engine.using(plan), engine.count() as spent:
                    here, there = engine.nll(ids), hf.nll(ids)
                torch.testing.assert_close(here, there, atol=2e-3, rtol=0)
                assert spent.summary()["per_token"] > full // 2, "60 tokens are few: pairs are refilled"
                assert plan.reference == "survivors" or (results[reference, "uniform"] - here).abs().max() > 0.01
    finally:
        engine.close()
    assert hf.spec.renormalise
    for method in ("uniform", "alloc-t"):  # the denominator matters, and is obeyed
        assert (results["original", method] - results["survivors", method]).abs().max() > 0.01
