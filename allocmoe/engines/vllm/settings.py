"""How a plan reaches vLLM: `additional_config={"allocmoe": {...}}`, or the variable ALLOCMOE_PLAN.

A path is read where the engine is configured and replaced by the plan itself. So the plan enters the
hash of vLLM's compile cache, and workers on other machines need no file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan

KEY = "allocmoe"
VARIABLE = "ALLOCMOE_PLAN"


@dataclass(frozen=True)
class Settings:
    """What an engine is asked to do.

    Attributes:
        plan: in force from the start, None for the model as it is.
        live: whether plans may be switched in the running engine (see `worker`).
        count: whether to count activations from the start.
        any_weights: serve other weights than the plan was made for: a quantised or fine-tuned copy.
    """

    plan: Plan | None = None
    live: bool = False
    count: bool = False
    any_weights: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON and vLLM's config can carry."""
        plan = self.plan.to_dict() if self.plan else None
        return {"plan": plan, "live": self.live, "count": self.count, "any_weights": self.any_weights}

    @classmethod
    def of(cls, additional_config: Any) -> Settings | None:
        """What a vLLM config asks for, None if nothing; AllocMoEError if it cannot be understood."""
        asked = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
        if asked is None:
            return None
        if not isinstance(asked, Mapping):
            raise AllocMoEError(f'additional_config["{KEY}"] must be an object such as {{"plan": "plan.json"}}')
        unknown = sorted(set(asked) - set(cls.__dataclass_fields__))
        if unknown:
            raise AllocMoEError(
                f'additional_config["{KEY}"] has {", ".join(unknown)}: expected {", ".join(cls.__dataclass_fields__)}'
            )
        flags = {name: asked.get(name, False) for name in ("live", "count", "any_weights")}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise AllocMoEError(f'additional_config["{KEY}"]["{name}"] must be true or false, got {value!r}')
        found = cls(_plan(asked.get("plan")), **flags)
        if found.plan is None and not found.live:
            raise AllocMoEError(f'additional_config["{KEY}"] has no plan: give "plan", or "live": true and one later')
        return found

    @classmethod
    def requested(cls, additional_config: Any) -> Settings | None:
        """As `of`; where that asks for nothing at all, the plan file that ALLOCMOE_PLAN names."""
        found = cls.of(additional_config)
        path = os.environ.get(VARIABLE)
        return cls(Plan.load(Path(path))) if found is None and path else found


def _plan(value: Any) -> Plan | None:
    if value is None:
        return None
    if isinstance(value, str | Path):
        return Plan.load(Path(value))
    return plan_of(value)


def plan_of(value: Any) -> Plan:
    """A plan from its document, or from that as JSON text, checked as a file would be."""
    text = value if isinstance(value, str) else documents.dump(value)
    return Plan.from_dict(documents.parse(text, "plan", "the plan given to the engine"))
