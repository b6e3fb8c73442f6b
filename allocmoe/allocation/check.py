"""Checks shared by the layer rules."""

from __future__ import annotations

import numpy as np

from allocmoe.errors import AllocMoEError
from allocmoe.spec import MoESpec


class UnreachableError(AllocMoEError):
    """A plan that this model cannot follow at this budget; a sweep leaves it out."""


def shape(spec: MoESpec | tuple[int, int]) -> tuple[int, int]:
    """(L, K) of a spec or of a pair; both must be at least 1."""
    layers, top_k = (spec.layers, spec.top_k) if isinstance(spec, MoESpec) else spec
    if layers < 1 or top_k < 1:
        raise AllocMoEError(f"a model needs at least one layer and one expert, got L = {layers}, K = {top_k}")
    return int(layers), int(top_k)


def whole_budget(budget: float, layers: int, top_k: int) -> int:
    """`budget` as an int within L..L*K, else AllocMoEError."""
    if not np.isfinite(budget) or budget != int(budget):
        raise AllocMoEError(f"the budget must be a whole number of activations per token, got {budget}")
    if not layers <= budget <= layers * top_k:
        raise AllocMoEError(
            f"budget {int(budget)} is outside {layers}..{layers * top_k}: "
            f"each of the {layers} MoE layers needs 1 to {top_k} experts"
        )
    return int(budget)


def matrix(values: np.ndarray, name: str) -> np.ndarray:
    """A finite float64 [L, K] array, else AllocMoEError."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise AllocMoEError(f"{name} must be a matrix of shape [layers, top_k], got shape {table.shape}")
    if not np.isfinite(table).all():
        raise AllocMoEError(f"{name} holds a value that is not a finite number: profile the model again")
    return table
