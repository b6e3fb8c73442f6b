"""Contribution from which on a pair is kept, per mean number of experts (1 to K by halves) and layer. [2K - 1][L]."""

from __future__ import annotations

from typing import Any

from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.routing.threshold import RULE, steps, threshold_for


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    from allocmoe.profile.thresholds import table

    text = setting.few()
    halves = steps(setting.engine.spec.top_k)
    found = table(setting.engine, RULE, threshold_for, text, halves, setting.known["norms"])
    return found.tolist(), {"windows": len(text.ids)}


QUANTITY = Quantity(
    "contribution_threshold",
    "weight times norm from which on a pair is kept, per mean number of experts and layer",
    _measure,
    shapes=lambda spec: (2 * spec.top_k - 1, spec.layers),
    needs=("norms",),
)
