"""lm-eval's own vLLM backend, with an engine whose plans can be switched between its runs.

lm-eval starts the `LLM`; `VLLMEngine` takes hold of it. Nothing of lm-eval is changed, but it asks for a
distribution named vllm, which vLLM's CPU build is not: see `engines.vllm.distribution`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allocmoe.engines.vllm.engine import DEFAULTS, VLLMEngine, starting


def load(folder: Path | str, dtype: str = "float32", batch: int = 64, **options: Any) -> tuple[VLLMEngine, Any]:
    """An engine and lm-eval's `VLLM` around the same `LLM`; `batch` requests enter one call.

    Raises AllocMoEError without vLLM, for a folder that holds no supported MoE model, and where vLLM
    does not start on it.
    """
    with starting(folder, dtype):
        from lm_eval.models.vllm_causallms import VLLM

        lm = VLLM(pretrained=str(folder), dtype=dtype, batch_size=batch, **{**DEFAULTS, **options})
    return VLLMEngine(lm.model, folder), lm
