"""The markers of figures as small pictures, for buttons and legends: a method looks the same there as in a figure."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from allocmoe.report.style import style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

POLYGONS = {
    "triangle-up": (3, -90), "triangle-down": (3, 90), "triangle-left": (3, 180), "triangle-right": (3, 0),
    "square": (4, 45), "diamond": (4, 0), "pentagon": (5, -90), "hexagon": (6, 0),
}  # fmt: skip
"""Corners, and the angle of the first one in degrees."""
STARS = {
    "star": (5, -90, 0.4), "hexagram": (6, -90, 0.58), "star-diamond": (4, 0, 0.45), "star-square": (4, 45, 0.45),
    "star-triangle-up": (3, -90, 0.3), "star-triangle-down": (3, 90, 0.3),
}  # fmt: skip
"""Points, the angle of the first one, and the depth between them as a share of the radius."""
SHAPES: dict[str, list[tuple[float, float]]] = {
    "cross": [
        (-3, -8),
        (3, -8),
        (3, -3),
        (8, -3),
        (8, 3),
        (3, 3),
        (3, 8),
        (-3, 8),
        (-3, 3),
        (-8, 3),
        (-8, -3),
        (-3, -3),
    ],
    "x": [(-5, -8), (0, -3), (5, -8), (8, -5), (3, 0), (8, 5), (5, 8), (0, 3), (-5, 8), (-8, 5), (-3, 0), (-8, -5)],
    "hourglass": [(-7, -7), (7, -7), (-7, 7), (7, 7)],
    "bowtie": [(-7, -7), (-7, 7), (7, -7), (7, 7)],
    "diamond-tall": [(0, -9), (5, 0), (0, 9), (-5, 0)],
    "diamond-wide": [(-9, 0), (0, -5), (9, 0), (0, 5)],
}
RADIUS = 8.0


def glyph(method: str) -> str:
    """A method's marker as SVG, in its colour."""
    look = style(method)
    return marker(look.colour, look.symbol)


def legend(figure: Figure) -> list[tuple[str, str]]:
    """(name, marker as SVG) of every series that a figure names, in its order."""
    found = {}
    for trace in figure.data:
        if trace.name and trace.showlegend is not False and trace.type in ("scatter", "bar"):
            look, line = trace.marker, getattr(trace, "line", None)
            colour = look.color or (line and line.color)
            symbol = getattr(look, "symbol", None) or ("circle" if trace.type == "scatter" else "square")
            if isinstance(colour, str) and isinstance(symbol, str):
                found[html.unescape(trace.name)] = marker(colour, symbol)
    return list(found.items())


def marker(colour: str, symbol: str) -> str:
    """A plotly symbol as SVG."""
    shape, opened = symbol.removesuffix("-open"), symbol.endswith("-open")
    colour = html.escape(colour)
    paint = f'fill="none" stroke="{colour}" stroke-width="2.5"' if opened else f'fill="{colour}"'
    drawn = f'<circle r="7" {paint}/>' if shape == "circle" else f'<path d="{_path(shape)}" {paint}/>'
    return f'<svg class="glyph" viewBox="-10 -10 20 20" aria-hidden="true">{drawn}</svg>'


def _path(shape: str) -> str:
    if shape in POLYGONS:
        corners, first = POLYGONS[shape]
        points = [_at(first + 360 * i / corners, RADIUS) for i in range(corners)]
    elif shape in STARS:
        count, first, depth = STARS[shape]
        points = [_at(first + 180 * i / count, RADIUS * (depth if i % 2 else 1)) for i in range(2 * count)]
    else:
        points = SHAPES.get(shape, SHAPES["x"])
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _at(degrees: float, radius: float) -> tuple[float, float]:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))
