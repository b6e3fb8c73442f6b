"""lm-eval tasks under a plan: the embedded sets by default, any task lm-eval knows by name.

Padding is the one thing that lm-eval's transformers backend does not tell the model, and Alloc-T
must know it: padding neither gets nor takes budget. `PlannedLM` adds the mask and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict
from torch import Tensor
from tqdm import tqdm

from allocmoe import documents
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.mini import items

FOLDER = Path(items.__file__).parent / "tasks"
METRICS = ("acc", "exact_match")  # per item 0 or 1; the first that a task reports counts


class PlannedLM(HFLM):
    """lm-eval's transformers backend, with an attention mask over right-padded batches."""

    def __init__(self, engine: HFEngine, batch: int) -> None:
        super().__init__(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=batch, logits_cache=True)
        self._rows: set[tuple[int, ...]] = set()

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        longest = self.max_length + 1
        self._rows = {tuple((context + answer)[-longest:][:-1]) for _, context, answer in requests}
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        lengths = torch.tensor([self._length(row) for row in inps.tolist()], device=inps.device)
        mask = torch.arange(inps.shape[1], device=inps.device) < lengths[:, None]
        with torch.inference_mode():
            return self.model(input_ids=inps, attention_mask=mask.long(), use_cache=False).logits

    def _length(self, row: list[int]) -> int:
        """Tokens of a request before the zeros that lm-eval pads with; zeros may be tokens too."""
        least = len(row)
        while least and row[least - 1] == 0:
            least -= 1
        return next((n for n in range(least, len(row) + 1) if tuple(row[:n]) in self._rows), len(row))


class TaskSuite:
    """Task sets, loaded once, to be run on one engine under many plans.

    Attributes:
        names: tasks in order.
        groups: group -> its tasks.
    """

    def __init__(self, engine: Any, names: list[str] | None = None, batch: int = 64, lm: Any = None) -> None:
        """`engine` is an HFEngine, or any engine with `lm`, lm-eval's own way to it (see `vllm_tasks`)."""
        self.engine, self.batch = engine, batch
        self.names = names or list(items.TASKS)
        with _quiet():
            self.lm: Any = lm or PlannedLM(engine, batch)
            only_ours = set(self.names) <= set(items.TASKS)
            self.manager = TaskManager(include_path=str(self._here()), include_defaults=not only_ours)
        unknown = [n for n in self.names if n not in self.manager.all_tasks]
        if unknown:
            raise AllocMoEError(
                f"lm-eval knows no task {', '.join(unknown)}: the embedded ones are {', '.join(items.TASKS)}"
            )
        self._loaded: dict[str, Any] = {}
        self.groups: dict[str, list[str]] = {}
        for name in self.names:
            group = items.TASKS[name].group if name in items.TASKS else "other"
            self.groups.setdefault(group, []).append(name)

    def _here(self) -> Path:
        """The embedded tasks with absolute paths to their data, which `datasets` needs."""
        self._folder = tempfile.TemporaryDirectory(prefix="allocmoe-tasks-")
        for yaml in FOLDER.glob("*.yaml"):
            data = {s: str(FOLDER / f"{yaml.stem}.{s}.jsonl") for s in ("train", "test")}
            kwargs = "dataset_kwargs:\n  data_files:\n" + "".join(f"    {s}: {p!r}\n" for s, p in data.items())
            kwargs += f"  cache_dir: {self._folder.name}/cache\n"
            Path(self._folder.name, yaml.name).write_text(yaml.read_text("utf-8") + kwargs, "utf-8")
        return Path(self._folder.name)

    def run(self, count: int, seed: int = 0) -> dict[str, dict[str, list[int]]]:
        """Per task `{"ids": [...], "correct": [0 or 1, ...]}`, on the same pinned items every time.

        Args:
            count: items per task; a task with fewer uses all.
            seed: of the choice of items.
        """
        with _quiet():
            result = evaluator.simple_evaluate(
                model=self.lm,
                tasks=self.names,
                task_manager=self.manager,
                samples={name: self._pinned(name, count, seed) for name in self.names},
                batch_size=self.batch,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                verbosity="ERROR",
            )
        found = {}
        for name in self.names:
            rows = sorted(result["samples"][name], key=lambda row: row["doc_id"])
            metric = next((m for m in METRICS if m in rows[0]), None)
            if metric is None:
                raise AllocMoEError(f"{name} reports none of {', '.join(METRICS)}: it cannot be compared item by item")
            found[name] = {
                "ids": [int(row["doc_id"]) for row in rows],
                "correct": [round(float(row[metric])) for row in rows],
            }
        return found

    def digest(self, count: int, seed: int = 0) -> str:
        """Of the items that `run` asks, and how they are put: ids alone are places in a list."""
        asked: dict[str, Any] = {}
        for name in self.names:
            chosen = self._pinned(name, count, seed)
            if name in items.TASKS:
                lines = self._lines(name)
                asked[name] = [(FOLDER / f"{name}.yaml").read_text("utf-8"), *(lines[i] for i in chosen)]
                continue
            task = self._task(name)
            docs = [task.eval_docs[i] for i in chosen]
            put = [[doc, task.doc_to_text(doc), task.doc_to_target(doc)] for doc in docs]
            asked[name] = [task.VERSION, task.config.num_fewshot, put]
        return documents.digest(json.loads(json.dumps(asked, default=str)))

    def _pinned(self, name: str, count: int, seed: int) -> list[int]:
        """Ids spread evenly over a task's items, from an offset that the seed decides."""
        total = len(self._lines(name) if name in items.TASKS else self._task(name).eval_docs)
        count = min(count, total)
        return sorted({(i * total // count + seed) % total for i in range(count)})

    def _lines(self, name: str) -> list[str]:
        """Items of an embedded task, without loading it."""
        return (FOLDER / f"{name}.test.jsonl").read_text("utf-8").splitlines()

    def _task(self, name: str) -> Any:
        """Any other task, from lm-eval."""
        if name not in self._loaded:
            task = get_task_dict([name], self.manager).get(name)
            if not hasattr(task, "eval_docs"):
                raise AllocMoEError(f"{name} is a group of lm-eval tasks: name its tasks instead")
            self._loaded[name] = task
        return self._loaded[name]


def scores(results: dict[str, dict[str, list[int]]], groups: dict[str, list[str]]) -> dict[str, float]:
    """`acc/<task>`, `group/<group>` (mean over its tasks) and `group/mean` (mean over groups)."""
    found = {f"acc/{name}": sum(r["correct"]) / len(r["correct"]) for name, r in results.items()}
    means = {f"group/{g}": sum(found[f"acc/{n}"] for n in names) / len(names) for g, names in groups.items()}
    return {**found, **means, "group/mean": sum(means.values()) / len(means)}


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets without their progress bars and log lines; nothing from the network, and none of
    the subprocesses (git, pip) with which lm-eval describes a machine: records do that."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    bar: Any = tqdm
    original = bar.__init__

    def silent(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "disable": True})

    bar.__init__ = silent
    describing = {name: getattr(evaluator, name, None) for name in ("get_git_commit_hash", "add_env_info")}
    for name in describing:
        setattr(evaluator, name, lambda *_: None)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        bar.__init__ = original
        for name, function in describing.items():
            setattr(evaluator, name, function)
        logging.disable(before)
