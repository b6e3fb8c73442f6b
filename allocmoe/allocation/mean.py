"""B / L in every layer, a fraction where it is one: for token rules that spend a mean."""

from __future__ import annotations

from allocmoe.allocation.rule import LayerRule, Request


def _allocate(request: Request) -> list[float]:
    return [request.budget / request.spec.layers] * request.spec.layers


RULE = LayerRule("mean", _allocate)
