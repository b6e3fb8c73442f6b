"""What each layer keeps under one AdapMoE threshold for all layers. {"threshold": [G], "kept": [G][L]}."""

from __future__ import annotations

from typing import Any

from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.routing.adapmoe import EVERY, ONE, RULE, cost_of_tail


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    from allocmoe.profile import curves

    text, own = setting.few(curves.TOKENS), [{"fisher": h} for h in setting.known["fisher"]]
    found = curves.measure(
        setting.engine, text, setting.batch, RULE, cost_of_tail, (ONE, EVERY), own, setting.progress
    )  # fmt: skip
    return found, {"windows": len(text.ids)}


QUANTITY = Quantity(
    "adapmoe",
    "experts kept per layer under one AdapMoE threshold for all layers",
    _measure,
    shapes=lambda spec: {"threshold": (None,), "kept": (None, spec.layers)},
    needs=("fisher",),
)
