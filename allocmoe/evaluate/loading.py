"""What to measure of which model, in plain values; and the engine and lm-eval model that do it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocmoe.engines import engine_class

if TYPE_CHECKING:
    from allocmoe.evaluate.quality import Measurer

# Engines that lm-eval starts itself, through a backend of its own -> "module:function" of that start. Any other
# engine is started here, and lm-eval is handed its transformers model.
STARTED_BY_LM_EVAL = {"vllm": "allocmoe.evaluate.vllm_tasks:load"}


@dataclass(frozen=True)
class Evaluation:
    """Everything that decides an evaluation but its plans; a worker elsewhere starts the same from it.

    Attributes:
        model: a checkpoint folder, or the name of an embedded model.
        engine, dtype, device: what runs it.
        text, windows, window, text_batch: of the perplexity (see `data.text.windows`).
        passes: of the text.
        items: items per data set; 0 leaves the tasks out.
        tasks, cap, task_batch, data_root, partial: of the tasks (see `TaskSuite`).
        seed: of the choice of items.
    """

    model: str
    engine: str = "transformers"
    dtype: str = "float32"
    device: str = "cpu"
    text: str = "mini-test"
    windows: int = 32
    window: int = 256
    text_batch: int = 8
    passes: str = "prefill"
    items: int = 0
    tasks: tuple[str, ...] | None = None
    cap: int | None = None
    task_batch: int = 64
    data_root: str | None = None
    partial: bool = False
    seed: int = 0

    def start(self) -> Measurer:
        """Start the engine. AllocMoEError for a model, text or data set that cannot be had."""
        from allocmoe import mini
        from allocmoe.data.text import windows

        live, lm = load(self.engine, mini.resolve(self.model), self.dtype, self.device, self.task_batch)
        return self.around(live, windows(live.tokenizer, self.text, self.windows, self.window), lm)

    def around(self, live: Any, text: Any, lm: Any = None) -> Measurer:
        """The same with an engine that runs already, and its text."""
        from allocmoe.evaluate.quality import Measurer
        from allocmoe.evaluate.tasks.suite import TaskSuite

        suite = None
        if self.items:
            suite = TaskSuite(
                live, self.tasks, self.task_batch, lm,
                cap=self.cap, data_root=self.data_root, partial=self.partial,
            )  # fmt: skip
        return Measurer(
            live, text,
            text_batch=self.text_batch, suite=suite, items=self.items, seed=self.seed, passes=self.passes,
        )  # fmt: skip


def load(engine: str, folder: Path | str, dtype: str, device: str, batch: int) -> tuple[Any, Any]:
    """The engine, and lm-eval's model around it or None; `batch` requests enter one call.

    Raises AllocMoEError for an unknown engine and for a model that it does not start on.
    """
    cls = engine_class(engine)
    if engine not in STARTED_BY_LM_EVAL:
        return cls.load(folder, dtype, device), None
    module, _, function = STARTED_BY_LM_EVAL[engine].partition(":")
    return getattr(import_module(module), function)(folder, dtype, batch)
