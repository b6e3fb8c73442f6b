"""S of Algorithm 1: the perplexity with one layer at k, deeper ones at 1, the others at K. [L][K]."""

from __future__ import annotations

from typing import Any

from allocmoe.profile.quantities.quantity import Quantity, Setting


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    from allocmoe.profile import algorithm1

    if setting.naive:
        table, evaluations = algorithm1.naive(setting.engine, setting.text, setting.batch, setting.progress)
    else:
        table, evaluations = algorithm1.fast(
            setting.engine, setting.text, setting.batch, setting.partial, setting.progress
        )  # fmt: skip
    return table.tolist(), {"evaluations": evaluations}


QUANTITY = Quantity(
    "perplexity",
    "S[l, k] of Algorithm 1",
    _measure,
    shapes=lambda spec: (spec.layers, spec.top_k),
    positive=True,
    current=lambda setting, _value: not setting.naive,
)
