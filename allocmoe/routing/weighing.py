"""What a method may do beside its two rules: choose by contributions, and make up for what is dropped.

An expert contributes its weight times its output. So candidates may be ordered, and chosen, by weight times the mean
norm of their expert's output on calibration text; the weights themselves stay the model's own. And a layer's weights
may be multiplied with the factor that brings what is kept closest to the full output. Both are numbers of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.errors import AllocMoEError, shown

if TYPE_CHECKING:
    from allocmoe.allocation.rule import Request

OPTIONS: dict[str, str] = {"scores": "weight", "rescale": "none"}
"""Of every method, with their defaults."""
CHOICES = {"scores": ("weight", "contribution"), "rescale": ("none", "layer")}
DIGITS = 5
"""Significant digits of a plan's norms and factors."""
TABLES = {"top_k": "top_k", "alloc_t": "alloc_t", "threshold": "alloc_t"}
"""Token rule -> the one by which its factors were found. A threshold keeps what Alloc-T would of such tokens."""


def check(options: Mapping[str, Any], rule: str) -> None:
    """AllocMoEError for a choice that is none, or that a token rule cannot have."""
    for name, known in CHOICES.items():
        if options[name] not in known:
            raise AllocMoEError(f"unknown {name} {shown(options[name])}: expected {' or '.join(known)}")
    if options["rescale"] != "none" and rule not in TABLES:
        raise AllocMoEError(f"rescale is not known for {rule}: expected one of {', '.join(TABLES)}")


def needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Quantities that a profile must have."""
    wanted = {"norms": options["scores"] == "contribution", "rescale": options["rescale"] == "layer"}
    return tuple(name for name, needed in wanted.items() if needed)


def norms(request: Request) -> list[list[float]]:
    """Of a plan: [L][N], none where candidates are chosen by weight."""
    if request.options["scores"] != "contribution":
        return []
    return [_short(row) for row in request.quantity("norms")]


def scale(request: Request, rule: str, layers: Sequence[float]) -> list[float]:
    """Of a plan: [L], none where weights stay what they are. Between two steps of k factors lie on a line."""
    from allocmoe.routing.steps import counts_of, table_of

    if request.options["rescale"] == "none":
        return []
    table = np.array(request.quantity("rescale")[table_of(TABLES[rule], request.options["scores"])])
    known = counts_of(request.spec.top_k)[TABLES[rule]]
    return _short([np.interp(k, known, table[:, layer]) for layer, k in enumerate(layers)])


def _short(row: Sequence[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in row]
