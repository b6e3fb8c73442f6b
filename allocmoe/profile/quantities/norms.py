"""Mean norm of every expert's output, over the tokens routed to it: what one unit of its weight adds. [L][N]."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.profile.quantities.saliency import summed


def norms(setting: Setting) -> np.ndarray:
    """||E_e(x)||, the mean over the text; of an expert that no token is routed to, the mean of its layer: [L, N]."""
    sums, counts = summed(setting, "norms", weighted=False)
    means = sums.sum(1, keepdims=True) / np.maximum(counts.sum(1, keepdims=True), 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), means)


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    return norms(setting).tolist(), {"windows": len(setting.text.ids)}


QUANTITY = Quantity(
    "norms",
    "mean norm of every expert's output",
    _measure,
    shapes=lambda spec: (spec.layers, spec.experts),
    least=0.0,
)
