"""An engine and the lm-eval model that drives it, by the engine's name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from allocmoe.engines import engine_class

# Engines that lm-eval starts itself, through a backend of its own -> "module:function" of that start. Any other
# engine is started here, and lm-eval is handed its transformers model.
STARTED_BY_LM_EVAL = {"vllm": "allocmoe.evaluate.vllm_tasks:load"}


def load(engine: str, folder: Path | str, dtype: str, device: str, batch: int) -> tuple[Any, Any]:
    """The engine, and lm-eval's model around it or None; `batch` requests enter one call.

    Raises AllocMoEError for an unknown engine and for a model that it does not start on.
    """
    cls = engine_class(engine)
    if engine not in STARTED_BY_LM_EVAL:
        return cls.load(folder, dtype, device), None
    module, _, function = STARTED_BY_LM_EVAL[engine].partition(":")
    return getattr(import_module(module), function)(folder, dtype, batch)
