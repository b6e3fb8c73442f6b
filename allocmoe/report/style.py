"""How methods, groups of tasks and phases are called and drawn: one name, colour and marker each, throughout.

A method's name stands in its row of `methods.METHODS`. Its colour, marker and dash come from a fixed palette: the
paper's methods keep the first ten, every further row of METHODS takes the next. Markers differ where colours do not
for a colour-blind reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from allocmoe.methods import METHODS, label

FOCUS, BASELINE, ORIGINAL, MEAN = "alloc-moe", "uniform", "original", "mean"
GREY = "#7f8790"
GROUPS = {"nlu": "NLU", "reasoning": "Reasoning", "math": "Math", MEAN: "Mean of the groups"}
PHASES = {"prefill": "Prefill", "decode": "Decode"}
TIMES = "\N{MULTIPLICATION SIGN}"


class Style(NamedTuple):
    """Colour, plotly marker symbol and dash of a method's lines, and the pattern of its bars."""

    colour: str
    symbol: str
    dash: str
    pattern: str = ""


FIRST = (ORIGINAL, BASELINE, "ascending", "descending", "lexi", "alloc-l", "dynamic-moe", "naee", "alloc-t", FOCUS)
"""The methods whose styles are fixed wherever they stand in METHODS: published pages show them."""
PALETTE = (
    Style(GREY, "star", "solid"),
    Style("#3b7dd8", "circle", "solid"),
    Style("#17a2a2", "triangle-up", "dot"),
    Style("#4f9d3a", "triangle-down", "dot"),
    Style("#9b6bd0", "square", "dash"),
    Style("#f08a24", "diamond", "dash"),
    Style("#b5942b", "pentagon", "dashdot"),
    Style("#a56a4c", "hexagon", "dashdot"),
    Style("#d65fa5", "cross", "dash"),
    Style("#e0312c", "circle", "solid"),
    # from here on as far as possible from all above, also as protanopes and deuteranopes see them
    Style("#6b10ed", "triangle-left", "longdash", "/"),
    Style("#923751", "hourglass", "dot", "x"),
    Style("#10b985", "triangle-right", "dash", "-"),
    Style("#9f1092", "bowtie", "dashdot", "|"),
    Style("#ac9fe0", "star-diamond", "longdashdot", "."),
    Style("#516b10", "star-square", "longdash", "\\"),
    Style("#785178", "hexagram", "dot", "+"),
    Style("#ed7878", "diamond-tall", "dash", "/"),
    Style("#5e6bed", "diamond-wide", "dashdot", "x"),
    Style("#ed925e", "star-triangle-up", "longdashdot", "-"),
    Style("#d310b9", "star-triangle-down", "longdash", "|"),
    Style("#105e9f", "square-open", "dot", "."),
    Style("#2a786b", "diamond-open", "dash", "\\"),
    Style("#6b5137", "triangle-up-open", "dashdot", "+"),
    Style("#e092c6", "triangle-down-open", "longdashdot", "/"),
    Style("#85ac9f", "pentagon-open", "longdash", "x"),
    Style("#c65178", "hexagon-open", "dot", "-"),
    Style("#5e37c6", "cross-open", "dash", "|"),
)
UNKNOWN = Style(GREY, "x", "dot")


def style(method: str) -> Style:
    """How a method is drawn; grey crosses for one that is not in METHODS, of another version's records say."""
    order = [*FIRST, *(m for m in METHODS if m not in FIRST)]
    return PALETTE[order.index(method) % len(PALETTE)] if method in order else UNKNOWN


def name(method: str) -> str:
    """How a method is called in figures and prose."""
    return label(method)


def caveats(methods: Iterable[str]) -> list[str]:
    """What a reader must know about some methods, each sentence once, in the order of METHODS."""
    among = set(methods)
    told = [row.caveat for m, row in METHODS.items() if m in among]
    return [text for text in dict.fromkeys(told) if text]


def group_name(group: str) -> str:
    """How a group of tasks is called, with or without the `group/` of its metric."""
    return GROUPS.get(group.removeprefix("group/"), group)


def rank(method: str) -> tuple[int, str]:
    """Sorts methods as the table of methods lists them, unknown ones last."""
    return (list(METHODS).index(method), "") if method in METHODS else (len(METHODS), method)
