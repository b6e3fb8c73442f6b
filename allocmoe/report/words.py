"""Numbers in words and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from allocmoe.report.style import TIMES
from allocmoe.stats import Interval

DASH = "\N{EN DASH}"


def number(value: Any, digits: int = 4) -> str:
    """A number to so many significant digits, a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def times(value: Interval, digits: int | None = None) -> str:
    """A ratio with its interval, by itself with more digits where it is close to 1."""
    if not math.isfinite(value.estimate):
        return DASH
    digits = digits or (2 if abs(value.estimate - 1) >= 0.05 else 3)
    bounds = f" ({value.low:.{digits}f}{DASH}{value.high:.{digits}f})" if math.isfinite(value.low) else ""
    return f"{value.estimate:.{digits}f}{TIMES}{bounds}"


def points(value: Interval) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    if not math.isfinite(value.estimate):
        return DASH
    estimate, low, high = (f"{round(100 * v, 1) + 0.0:+.1f}" for v in value)
    return f"{estimate} ({low} to {high})"


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: intervals as objects, what is not a number as null."""
    if isinstance(value, Interval):
        return {name: plain(number) for name, number in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
