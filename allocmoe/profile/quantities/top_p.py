"""P of top-P per whole k and layer, calibrated in closed form. [K][L]."""

from __future__ import annotations

from typing import Any

from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.routing.top_p import RULE, threshold_for


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    from allocmoe.profile.thresholds import table

    text = setting.few()
    return table(setting.engine, RULE, threshold_for, text).tolist(), {"windows": len(text.ids)}


QUANTITY = Quantity(
    "top_p",
    "P of top-P per whole k and layer",
    _measure,
    shapes=lambda spec: (spec.top_k, spec.layers),
)
