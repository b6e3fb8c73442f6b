"""An embedded model's own plans on a model that is wide enough to be timed: honest pairs of speed and quality.

The embedded models are so narrow that a CPU spends its time around their experts. Each has a wide shape
with the same layers L, experts N and K, so the very plan whose quality was measured can be timed on it.
"""

from __future__ import annotations

from dataclasses import replace

from allocmoe.engines import Engine
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan

# shape of measure.shapes -> the embedded model whose plans it is timed under, and whose routing it has
WIDE = {"olmoe-wide": "mini-olmoe", "qwen-wide": "mini-qwen", "deepseek-wide": "mini-deepseek"}


def shape_of(model: str) -> str | None:
    """The wide shape that belongs to an embedded model; None if it has none."""
    return {home: shape for shape, home in WIDE.items()}.get(model)


def transplanted(plan: Plan, engine: Engine, model: str) -> Plan:
    """A plan of the embedded model `model` for a wide one: the same layers, token rule and numbers.

    `origin["transplanted"]` says where it comes from: {"model", "fingerprint", "plan": its digest}; speed
    records carry that in their details, and a report joins speed and quality by it.

    Raises AllocMoEError for a model with another L, N or K.
    """
    spec = engine.spec
    mine, theirs = (len(plan.layers), plan.experts, plan.top_k), (spec.layers, spec.experts, spec.top_k)
    if mine != theirs:
        raise AllocMoEError(
            f"a plan of {model} cannot be transplanted into {engine.name}: its MoE layers, experts and top-k are "
            f"{mine}, the model's {theirs}; choose the shape that belongs to the model, one of {', '.join(WIDE)}"
        )
    source = {"model": model, "fingerprint": plan.fingerprint, "plan": plan.digest}
    origin = {**plan.origin, "transplanted": source}
    return replace(plan, fingerprint=engine.fingerprint, family=spec.family, origin=origin)
