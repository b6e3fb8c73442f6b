"""The plan behind a record: rebuilt where the record holds enough, else the command that makes it."""

from __future__ import annotations

import shlex
from functools import cache
from typing import Any

from allocmoe import documents
from allocmoe.allocation import Request
from allocmoe.errors import AllocMoEError, shown
from allocmoe.methods import METHODS, method
from allocmoe.mini import resolve, shipped
from allocmoe.plan import REFERENCES, Plan
from allocmoe.records import Record
from allocmoe.routing import token_rule
from allocmoe.spec import MoESpec, read_config


def rebuilt(record: Record) -> Plan | None:
    """The plan that was measured, equal in all that decides a result: its digest is the record's.

    A record holds the plan's layers and, since plans describe themselves in full, its rule's numbers and the model's
    family and experts. Of an older record, the model is supposed to be one that ships and the rule's numbers those of
    the method's defaults; the digest tells whether that is so. None where no such plan has the record's digest.
    """
    told = record.details
    if not record.plan or "transplanted" in told or not {"token_rule", "layers", "original_budget"} <= set(told):
        return None
    for reference in [told["reference"]] if "reference" in told else REFERENCES:
        try:
            plan = Plan(
                method=record.method or "", budget=record.budget or 0, layers=tuple(told["layers"]),
                top_k=told["original_budget"] // len(told["layers"]), token_rule=told["token_rule"],
                fingerprint=record.fingerprint, reference=reference, origin=dict(told.get("origin", {})),
                norms=told.get("norms", ()), scale=told.get("scale", ()), **_rest(record),
            )  # fmt: skip
        except (AllocMoEError, TypeError, ValueError):
            return None
        if plan.digest == record.plan:
            return plan
    return None


def document(record: Record) -> str | None:
    """The text of the plan file, None where it cannot be rebuilt: JSON of a browser would turn 3.0 into 3, which is
    another digest."""
    plan = rebuilt(record)
    return documents.dump(plan.to_dict()) if plan else None


def command(record: Record) -> str:
    """The `allocmoe allocate` that makes such a plan, for a plan that cannot be rebuilt from its record."""
    row = METHODS.get(record.method or "")
    words = ["allocmoe", "allocate", record.model, "--method", record.method or "", "--budget", str(record.budget)]
    if row is None or row.needs_profile:
        words += ["--profile", "profile.json"]
    return shlex.join([*words, "--out", file_name(record)])


def serve(record: Record) -> str:
    """The line that serves the plan's file, see docs/serve.md; a model that ships lies where its package does."""
    plan = '{"allocmoe": {"plan": "' + file_name(record) + '"}}'
    model = shlex.quote(record.model)
    if record.model in shipped():
        model = f"$(python -c 'from allocmoe.mini import resolve; print(resolve(\"{record.model}\"))')"
    return f"vllm serve {model} --additional-config {shlex.quote(plan)}"


def file_name(record: Record) -> str:
    """What the plan's file is called."""
    parts = (record.model, record.method or "", str(record.budget))
    return "-".join("".join(c if c.isalnum() or c in "-._" else "-" for c in part) for part in parts) + ".json"


def _rest(record: Record) -> dict[str, Any]:
    """The fields of the plan that not every record holds. AllocMoEError where they cannot be told."""
    told = record.details
    if {"family", "experts", "parameters"} <= set(told):
        return {name: told[name] for name in ("family", "experts", "parameters")}
    spec, row = _shipped(record.model), method(record.method or "")
    options = {name: told.get("origin", {}).get(name, value) for name, value in row.defaults.items()}
    request = Request(spec, record.budget or 0, None, options)
    numbers = token_rule(told["token_rule"]).calibrate(request, told["layers"])
    return {"family": spec.family, "experts": spec.experts, "parameters": numbers}


@cache
def _shipped(model: str) -> MoESpec:
    if model not in shipped():
        raise AllocMoEError(f"{shown(model)} is no embedded model")
    return MoESpec.from_config(read_config(resolve(model)))
