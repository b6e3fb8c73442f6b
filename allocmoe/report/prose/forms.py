"""How numbers are written in prose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from allocmoe.errors import AllocMoEError, shown
from allocmoe.report.style import TIMES
from allocmoe.stats import Interval

WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def percent(value: float, digits: int = 1, sign: bool = False) -> str:
    """A share in percent, without the sign of percent."""
    text = f"{100 * value:{'+' if sign else ''}.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"


def percents(value: Interval, interval: bool, sign: bool = False) -> str:
    """A share with its interval, in percent: 2.0 % (1.2 to 2.8)."""
    bounds = f" ({percent(value.low, sign=sign)} to {percent(value.high, sign=sign)})" if interval else ""
    return f"{percent(value.estimate, sign=sign)} %{bounds}"


def ratio(value: Interval, interval: bool, unit: str = TIMES) -> str:
    """A ratio with its interval: 1.28x (1.13 to 1.45)."""
    if not math.isfinite(value.estimate):
        raise AllocMoEError("the records have no samples to compute this ratio from")
    bounds = f" ({value.low:.2f} to {value.high:.2f})" if interval else ""
    return f"{value.estimate:.2f}{unit}{bounds}"


def count(number: int, form: str = "digits") -> str:
    """A count in digits, or in words as far as there are words for it: at the start of a sentence `Words`."""
    if form not in ("digits", "words", "Words"):
        raise AllocMoEError(f"unknown form {shown(form)}: expected digits, words or Words")
    if form == "digits" or number >= len(WORDS):
        return str(number)
    return WORDS[number] if form == "words" else WORDS[number].capitalize()


def flag(word: str, name: str) -> bool:
    """Whether an optional word is there. AllocMoEError for another word."""
    if word not in ("", name):
        raise AllocMoEError(f"unknown word {shown(word)}: expected {name}, or nothing")
    return word == name


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence: a, b and c."""
    return " and ".join([p for p in (", ".join(parts[:-1]), *parts[-1:]) if p])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "whole": lambda v: f"{v:,.0f}",
    "one": lambda v: f"{v:.1f}",
    "two": lambda v: f"{v:.2f}",
    "three": lambda v: f"{v:.3f}",
    "percent": lambda v: f"{percent(v)} %",
    "points": lambda v: percent(v),
    "rounded": lambda v: f"{percent(v, 0)} %",
    "millions": lambda v: f"{v / 1e6:.2f} M",
    "words": lambda v: count(int(v), "words"),
}
"""Of `field`. `points` is a percentage without its sign, `rounded` a whole one."""


def formatted(value: Any, name: str) -> str:
    """A value in one of the FORMATS. AllocMoEError for another name, or a value of the wrong kind."""
    if name not in FORMATS:
        raise AllocMoEError(f"unknown format {shown(name)}: expected one of {', '.join(FORMATS)}")
    try:
        return FORMATS[name](value)
    except (TypeError, ValueError):
        raise AllocMoEError(f"{shown(value)} cannot be written as {name}") from None
