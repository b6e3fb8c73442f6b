"""lm-eval's tasks, loaded and set as a data set's spec wants them asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from allocmoe.errors import AllocMoEError, first_line
from allocmoe.evaluate.tasks.spec import TaskSpec
from allocmoe.evaluate.tasks.table import EMBEDDED, KNOWN_METRICS, SETS

GENERATES = "generate_until"
CAPS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's order


class MissingDataError(AllocMoEError):
    """A data set's data cannot be had here: missing, gated, or out of reach."""


@dataclass(frozen=True)
class Member:
    """One lm-eval task of a data set: its name, the live task, and what of its results is read.

    `cap` is None where nothing is generated.
    """

    name: str
    task: Any
    metric: str
    filter: str
    shots: int
    cap: int | None


def manager(specs: Sequence[TaskSpec], folders: Sequence[Path | str], stock: bool) -> Any:
    """lm-eval's index of tasks: those in `folders`, which go before those of the same name in lm-eval itself.

    Args:
        stock: whether lm-eval's own tasks are known; reading all their files takes seconds.

    Raises AllocMoEError for a spec that the index knows nothing of.
    """
    found: Any = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=stock)
    unknown = [name for spec in specs for name in spec.asked if name not in found.task_index]
    if unknown:
        raise AllocMoEError(
            f"lm-eval knows no task {', '.join(unknown)[:200]}: expected its name of a task, group or tag, "
            f"one of the embedded {', '.join(EMBEDDED)}, or {', '.join(SETS)}"
        )
    return found


def members(spec: TaskSpec, known: Any, cap: int | None, lm: Any) -> list[Member]:
    """The tasks of a data set, in the order that lm-eval has them.

    Args:
        known: from `manager`.
        cap: tokens that an answer may have at most, whatever the spec says.
        lm: the model; an answer must leave it room for a question.

    Raises MissingDataError if the data cannot be had, AllocMoEError if the tasks are not those that the spec tells of.
    """
    state = random.getstate()
    random.seed(0)  # some tasks shuffle their choices when they are loaded
    try:
        tasks = known.load(list(spec.asked))["tasks"]
    except Exception as error:  # of lm-eval's, the hub's and the network's many kinds
        raise MissingDataError(f"cannot load {spec.name}: {reason(error)}") from None
    finally:
        random.setstate(state)
    if spec.members not in (None, len(tasks)):
        raise AllocMoEError(f"{spec.name} has {len(tasks)} of its {spec.members} lm-eval tasks here: add the others")
    return [_member(spec, name, task, cap, lm) for name, task in tasks.items()]


def reason(error: Exception) -> str:
    """Why data cannot be had, and what to do, in a line."""
    said = first_line(error)
    if "Gated" in type(error).__name__ or "gated" in said or "401" in said or "403" in said:
        return f"its owners gate it ({said}); ask them on its page, then log in with `hf auth login`"
    far = isinstance(error, ConnectionError) or any(
        w in said.lower() for w in ("connect", "reach", "network", "offline")
    )
    if far and not isinstance(error, FileNotFoundError):
        return f"the hub cannot be reached ({said}); give a data root, see `allocmoe data --help`"
    if type(error).__name__ in ("UndefinedError", "KeyError"):
        return f"its rows are not as its definition expects ({said}); are they of lm-eval's version?"
    return f"{first_line(error, kind=True)}; is its data here?"


def _member(spec: TaskSpec, name: str, task: Any, cap: int | None, lm: Any) -> Member:
    reported, filters = list(task.aggregation()), [one.name for one in task._filters]
    metric = next((m for m in ([spec.metric] if spec.metric else KNOWN_METRICS) if m in reported), None)
    if metric is None:
        wanted = spec.metric or " or ".join(KNOWN_METRICS)
        raise AllocMoEError(f"{name} reports {', '.join(reported)}, not {wanted}: it cannot be compared item by item")
    chosen = next((f for f in spec.filters or filters if f in filters), None)
    if chosen is None:
        raise AllocMoEError(f"{name} has the filters {', '.join(filters)}, expected {' or '.join(spec.filters)}")
    own = task.get_config("num_fewshot")
    shots = own or 0 if spec.shots is None else spec.shots
    task.set_config("num_fewshot", shots)
    if task.OUTPUT_TYPE != GENERATES:
        return Member(name, task, metric, chosen, shots, None)
    settings = task.get_config("generation_kwargs") or {}
    length = spec.cap or next((settings[c] for c in CAPS if settings.get(c)), None) or lm.max_gen_toks
    length = min(int(length), cap or int(length))
    if length >= lm.max_length:
        raise AllocMoEError(
            f"an answer of {name} may have {length} tokens, all that the model reads ({lm.max_length}): "
            "give a smaller cap"
        )
    task.set_config("generation_kwargs", {c: v for c, v in settings.items() if c not in CAPS} | {CAPS[0]: length})
    return Member(name, task, metric, chosen, shots, length)
