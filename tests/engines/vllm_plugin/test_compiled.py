"""Compiled, vLLM computes the same under rules that look beyond the router's K: the routers stay out of the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from allocmoe.methods import allocate
from tests.engines.vllm_plugin import oracle
from tests.engines.vllm_plugin.test_agreement import (
    ATTEMPTS,
    NEAR,
    TOLERANCE,
    drawn,
    named,
    own_pairs,
    prompt_logprobs,
    worst,
)

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    "family", ["olmoe", *(pytest.param(f, marks=pytest.mark.slow) for f in oracle.FAMILIES if f != "olmoe")]
)
def test_compiled(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allocmoe.engines.vllm.engine import VLLMEngine

    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    folder = oracle.checkpoint(family, tmp_path / family)
    hf = oracle.load(folder)
    half = hf.spec.original_budget // 2
    oea = allocate("oea", hf.spec, hf.fingerprint, half)
    over = replace(oea, token_rule="alloc_t_refill", parameters={**oea.parameters, "k_base": 1})
    plans = [oea, own_pairs(oea), over, allocate("xshare", hf.spec, hf.fingerprint, half, batch=16)]
    engine = VLLMEngine.load(folder, skip_tokenizer_init=True, max_model_len=128, enforce_eager=False)
    try:
        assert not engine.config.model_config.enforce_eager
        assert engine.config.compilation_config.mode, "nothing is compiled"
        for plan in plans:
            for attempt in range(ATTEMPTS):
                prompts = [prompt[:16] for prompt in drawn(attempt, 4)]  # 57 tokens: few enough to refill
                wanted, margin = oracle.logprobs(hf, plan, prompts, [[0] * len(p) for p in prompts])
                if margin > NEAR:
                    break
            assert margin > NEAR, f"{named(plan)}: every batch routes near a tie"
            with engine.using(plan), engine.count() as spent:
                outputs = engine.generate(prompts, 1, prompt_logprobs=0)
            found = [row[: len(p) - 1] for row, p in zip(prompt_logprobs(outputs), prompts, strict=True)]
            assert worst(found, wanted) < TOLERANCE, named(plan)
            assert spent.summary()["per_token"] > half
    finally:
        engine.close()
