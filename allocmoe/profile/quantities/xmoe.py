"""What each layer keeps under one P for all layers. {"threshold": [G], "kept": [G][L]}."""

from __future__ import annotations

from typing import Any

from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.routing.xmoe import EVERY, ONE, RULE, mass_before


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    from allocmoe.profile import curves

    text = setting.few(curves.TOKENS)
    found = curves.measure(
        setting.engine, text, setting.batch, RULE, mass_before, (ONE, EVERY), progress=setting.progress
    )  # fmt: skip
    return found, {"windows": len(text.ids)}


QUANTITY = Quantity(
    "xmoe",
    "experts kept per layer under one P for all layers",
    _measure,
    shapes=lambda spec: {"threshold": (None,), "kept": (None, spec.layers)},
)
