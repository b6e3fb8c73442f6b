"""K in every layer: the model as it is."""

from __future__ import annotations

from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.errors import AllocMoEError


def _allocate(request: Request) -> list[float]:
    whole = request.spec.original_budget
    if request.budget != whole:
        raise AllocMoEError(f"the method original spends {whole}, not {request.budget}")
    return [request.spec.top_k] * request.spec.layers


RULE = LayerRule("full", _allocate)
