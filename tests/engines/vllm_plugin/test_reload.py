"""Plans still hold after weights were loaded anew, also where that built other kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe import methods
from allocmoe.spec import MoESpec, fingerprint
from tests.engines.vllm_plugin import oracle

pytestmark = pytest.mark.vllm


def test_plans_hold_after_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In vLLM's own engine on a CPU. Its method for unquantised weights keeps a kernel that it has, and on a CPU then
    forgets to pack the weights; so the kernels are taken away first, as methods for FP8 do."""
    from allocmoe.engines.vllm import kernels
    from allocmoe.engines.vllm.engine import VLLMEngine

    stock, asked = kernels.probe, []
    monkeypatch.setattr(kernels, "probe", lambda runner, *given: (stock(runner, *given), asked.append(runner)))
    folder = oracle.checkpoint("olmoe", tmp_path / "olmoe")
    plan = methods.allocate("alloc-t", MoESpec.from_folder(folder), fingerprint(folder), 64)
    ids = torch.randint(128, (2, 24), generator=torch.Generator().manual_seed(9))
    engine = VLLMEngine.load(folder, skip_tokenizer_init=True, max_model_len=64)
    try:
        model = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()
        layers = [m.routed_experts for m in model.modules() if hasattr(m, "routed_experts")]
        assert len(layers) == engine.spec.layers

        def spent() -> tuple[list[float], float]:
            with engine.using(plan), engine.count() as found:
                answer = engine.nll(ids).tolist()
            return answer, found.summary()["per_token"]

        def kernels_now() -> list[Any]:
            return [layer.quant_method.moe_kernel.fused_experts for layer in layers]

        original, before, first = engine.nll(ids).tolist(), spent(), kernels_now()
        assert before[1] == 64
        assert before[0] != pytest.approx(original, abs=1e-3), "this could not have failed"

        asked.clear()
        for layer in layers:
            layer.quant_method.process_weights_after_loading(layer)
        assert len(asked) == len(layers)
        assert kernels_now() == first
        assert spent() == before

        for layer in layers:
            layer.quant_method.moe_kernel = None
        engine.llm.collective_rpc("reload_weights")
        assert len(asked) == 2 * len(layers)
        assert not any(new is old for new, old in zip(kernels_now(), first, strict=True))
        assert all("apply" in vars(experts) for experts in kernels_now())
        again = spent()
        assert again[1] == 64
        assert again[0] == pytest.approx(before[0], abs=1e-4)
        assert engine.nll(ids).tolist() == pytest.approx(original, abs=1e-4)
    finally:
        engine.close()
