"""One look per method: the paper's methods keep theirs, the next ones get distinct ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from allocmoe.methods import METHODS
from allocmoe.report import style

KNOWN = {
    "original": ("#7f8790", "star", "solid"), "uniform": ("#3b7dd8", "circle", "solid"),
    "ascending": ("#17a2a2", "triangle-up", "dot"), "descending": ("#4f9d3a", "triangle-down", "dot"),
    "lexi": ("#9b6bd0", "square", "dash"), "alloc-l": ("#f08a24", "diamond", "dash"),
    "dynamic-moe": ("#b5942b", "pentagon", "dashdot"), "naee": ("#a56a4c", "hexagon", "dashdot"),
    "alloc-t": ("#d65fa5", "cross", "dash"), "alloc-moe": ("#e0312c", "circle", "solid"),
}  # fmt: skip
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SEEN = {
    "normal": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(colour: str, eye: str) -> np.ndarray:
    """CIELAB (D65) of a colour as an eye sees it."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(np.array(SEEN[eye]) @ linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_papers_methods_keep_their_look():
    assert {m: style.style(m)[:3] for m in KNOWN} == KNOWN
    assert len(style.PALETTE) >= 25


@pytest.mark.parametrize("eye", SEEN)
def test_no_two_styles_look_alike(eye: str):
    for a, b in combinations(style.PALETTE, 2):
        distance = float(np.linalg.norm(lab(a.colour, eye) - lab(b.colour, eye)))
        assert a.symbol != b.symbol or distance > 25, (a, b)
        assert eye != "normal" or distance > 15, (a, b)
        if b.pattern:  # bars have no marker
            assert a.pattern != b.pattern or distance > 10, (a, b)


def test_a_further_method_takes_the_next_style_wherever_its_row_stands(monkeypatch: pytest.MonkeyPatch):
    before = {m: style.style(m) for m in METHODS}
    grown = dict(METHODS)
    for number in range(len(style.PALETTE) - len(METHODS) - 1):
        grown[f"new-{number}"] = METHODS["uniform"]
    monkeypatch.setattr(style, "METHODS", {"first": METHODS["uniform"], **grown})
    assert {m: style.style(m) for m in KNOWN} == {m: before[m] for m in KNOWN}
    used = [style.style(m) for m in ("first", *grown)]
    assert len({s.colour for s in used}) == len(used)
    assert style.style("of another version") == style.UNKNOWN


def test_a_methods_name_and_caveat_are_those_of_its_row(monkeypatch: pytest.MonkeyPatch):
    class Row:
        label, caveat = "Brand-New", "It is new."

    monkeypatch.setitem(METHODS, "brand-new", Row())  # type: ignore[arg-type]
    assert [style.name(m) for m in ("brand-new", "naee", "uniform", "gone")] == [
        "Brand-New",
        "NAEE",
        "uniform",
        "gone",
    ]
    told = style.caveats(["brand-new", "alloc-moe", "alloc-t", "gone"])
    assert told[-1] == "It is new."
    assert len(told) == len(set(told))
    assert style.caveats(["uniform"]) == []
