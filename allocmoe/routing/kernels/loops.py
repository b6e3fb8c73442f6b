"""Loops that numba compiles for the CPU, once and for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at its first call, and kept on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder may be written
        return numba.njit(error_model="numpy")(function)


@compiled
def before(a: float, b: float) -> bool:
    """Whether a score comes strictly before another."""
    return a > b or (a != a and b == b)
