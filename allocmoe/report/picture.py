"""The picture of the README: what a budget costs, drawn from records as a small SVG. Equal records, equal bytes.

python -m allocmoe.report.picture --out docs/picture.svg
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.report.answer import within
from allocmoe.report.prose.sources import Sources
from allocmoe.report.style import FOCUS, GREY, ORIGINAL, name, style

TOP, LOW = 15.0, -2.5  # of the perplexity axis, in %
COLOURED = (FOCUS, "alloc-c", "alloc-t", "alloc-l", "uniform")
WIDTH, HEIGHT, LEFT, GAP, ABOVE, BELOW = 860, 330, 62, 26, 78, 62
MARGIN = 0.04  # of a panel's width, left and right of the points
TICKS = (1.0, 0.75, 0.5)
INK, PALE = "#24292f", "#d0d7de"

Curve = Sequence[tuple[float, float]]
"""(share of the model's own activations, perplexity over the unchanged model's in %), from the whole downwards."""


@dataclass(frozen=True)
class Box:
    """The axes of one panel, in pixels."""

    x: float
    y: float
    width: float
    height: float
    least: float

    def at(self, share: float, rise: float) -> tuple[float, float]:
        """Pixels of a point: from all activations on the left to the least share on the right."""
        return (
            self.x + self.width * (MARGIN + (1 - 2 * MARGIN) * (1 - share) / (1 - self.least)),
            self.y + self.height * (TOP - rise) / (TOP - LOW),
        )


def picture(sources: Sources, file: str) -> str:
    """Perplexity against budget, a panel per model; what rises above the axis leaves at its top.

    Methods that spend more than their budget, because it budgets something else, are not drawn.

    Raises AllocMoEError for records without quality.
    """
    models = sources.models(file)
    if not models:
        raise AllocMoEError(f"{file} holds no quality to draw")
    curves = {model: _curves(sources, file, model) for model in models}
    width = (WIDTH - LEFT - GAP * len(models)) / len(models)
    least = min(share for found in curves.values() for curve in found.values() for share, _ in curve)
    parts = [_text(LEFT, 24, "Perplexity above the unchanged model's, in %: lower is better", 15, "start")]
    parts += _legend({m for found in curves.values() for m in found})
    for place, model in enumerate(models):
        box = Box(LEFT + place * (width + GAP), ABOVE, width, HEIGHT - ABOVE - BELOW, least)
        parts += _panel(model, box, curves[model], place)
    parts.append(_text(WIDTH / 2, HEIGHT - 14, "expert activations per token, as a share of the model's own", 13))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>'
    font = 'font-family="system-ui, sans-serif" role="img">\n<title>Perplexity against budget, by model</title>'
    return "\n".join([head + font, ground, *parts, "</svg>"]) + "\n"


def _curves(sources: Sources, file: str, model: str) -> dict[str, Curve]:
    whole = sources.original(file, model)
    own, base = whole.budget or 1, whole.metrics["perplexity"]
    found: dict[str, list[tuple[float, float]]] = {}
    for record in sources.group(file, model).records:
        if record.method and record.method != ORIGINAL and within(record):
            rise = 100 * (record.metrics["perplexity"] / base - 1)
            found.setdefault(record.method, [(1.0, 0.0)]).append(((record.budget or 0) / own, rise))
    return {method: sorted(points, reverse=True) for method, points in found.items()}


def _panel(model: str, box: Box, curves: Mapping[str, Curve], place: int) -> Iterator[str]:
    clip = f"panel{place}"
    size = f'width="{box.width:.1f}" height="{box.height:.1f}"'
    yield f'<clipPath id="{clip}"><rect x="{box.x:.1f}" y="{box.y:.1f}" {size}/></clipPath>'
    for level in (0, 5, 10, 15):
        y = box.at(1.0, level)[1]
        yield _line([(box.x, y), (box.x + box.width, y)], INK if level == 0 else PALE, 1)
        if place == 0:
            yield _text(box.x - 8, y + 4, f"+{level}" if level else "0", 12, "end")
    for share in TICKS:
        yield _text(box.at(share, 0)[0], box.y + box.height + 18, f"{share:.0%}", 12)
    yield f'<g clip-path="url(#{clip})">'
    for method in sorted(curves, key=lambda m: (m in COLOURED, -COLOURED.index(m) if m in COLOURED else 0)):
        bold = method in COLOURED
        colour = style(method).colour if bold else GREY
        points = [box.at(*point) for point in curves[method]]
        yield _line(points, colour, 3.5 if method == FOCUS else 2 if bold else 1, 1 if bold else 0.45)
        for x, y in points[1:] if bold else []:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 if method == FOCUS else 3}" fill="{colour}"/>'
    yield "</g>"
    yield _text(box.x + box.width / 2, box.y - 8, model, 13)


def _legend(known: set[str]) -> Iterator[str]:
    entries = [(name(m), style(m).colour) for m in COLOURED if m in known]
    entries += [("other methods", GREY)] if known - set(COLOURED) else []
    x = float(LEFT)
    for words, colour in entries:
        yield _line([(x, 42), (x + 22, 42)], colour, 3)
        yield _text(x + 28, 46, words, 13, "start")
        x += 48 + 7.2 * len(words)


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, opacity: float = 1) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    faint = f' opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{faint}/>'


def _text(x: float, y: float, words: str, size: int, anchor: str = "middle") -> str:
    look = f'font-size="{size}" fill="{INK}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{html.escape(words)}</text>'


def main(arguments: Sequence[str] | None = None) -> int:
    """0: written; 2: the records do not give it."""
    parser = argparse.ArgumentParser(prog="python -m allocmoe.report.picture", description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder with records/")
    parser.add_argument("--records", default="embedded,contributions", help="records file, or several with commas")
    parser.add_argument("--out", type=Path, default=Path("docs/picture.svg"))
    asked = parser.parse_args(arguments)
    try:
        documents.write_atomic(asked.out, picture(Sources(asked.reports), asked.records))
    except AllocMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
