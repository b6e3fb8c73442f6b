"""k_l of token rules with one threshold for all layers: what each layer keeps when all obey it."""

from __future__ import annotations

from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.routing import curve


def along(name: str) -> LayerRule:
    """The layer rule that goes by a curve of the profile, for the token rule of the same name."""

    def allocate(request: Request) -> list[float]:
        return curve.layers_at(request.quantity(name), request.budget, request.spec.top_k)

    return LayerRule(name, allocate, needs=(name,))
