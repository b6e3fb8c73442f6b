"""The page: what the records say, in words, figures and tables, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe import documents
from allocmoe.allocation.alloc_l import normalised
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report import figures, tables, timeline
from allocmoe.report.figures import PHASES, TIMES, group_name, name
from allocmoe.report.tables import BASELINE, FOCUS, MEAN, ORIGINAL, Comparison, Group, QualityRow, SpeedRow
from allocmoe.stats import Interval

if TYPE_CHECKING:
    from jinja2 import Environment
    from plotly.graph_objects import Figure

DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Block:
    """A figure of a section, with the facts its caption tells."""

    title: str
    figure: Figure
    facts: dict[str, Any]


@dataclass(frozen=True)
class Quality:
    """A quality group with everything computed from it."""

    group: Group
    rows: list[QualityRow]
    verdicts: list[Comparison]

    @property
    def windows(self) -> int:
        return len(self.group.records[0].samples.get("nll", []))

    @property
    def items(self) -> int:
        return sum(len(t["ids"]) for t in self.group.records[0].samples.get("tasks", {}).values())


@dataclass(frozen=True)
class Speed:
    """A speed group with its rows."""

    group: Group
    rows: list[SpeedRow]

    @property
    def rounds(self) -> int:
        return max(len(r.samples.get("decode_s", [])) for r in self.group.records)


def write(records: Sequence[Record], path: Path, title: str) -> None:
    """Write the report of some records as one HTML page, whole or not at all.

    Args:
        records: of any kinds; of several of one method, budget and setup the latest counts.
        path: of the page; it works from the disk and loads nothing.
        title: its heading, plain text.

    Raises AllocMoEError if no record is about quality or speed, if the packages of the `report`
    extra are missing, or if the page cannot be written.
    """
    documents.write_atomic(path, render(records, title))


def render(records: Sequence[Record], title: str) -> str:
    """The page as HTML text; see `write`."""
    try:
        import jinja2 as _templates  # noqa: F401
        from plotly.offline import get_plotlyjs
        from statsmodels import stats as _needed  # noqa: F401
    except ImportError as error:
        raise AllocMoEError(f"the report needs {error.name}: install `allocmoe[report]`") from None
    quality = [
        Quality(g, tables.quality_rows(g), tables.comparisons(g, FOCUS)) for g in tables.groups(records, "quality")
    ]
    speed = [Speed(g, tables.speed_rows(g)) for g in tables.groups(records, "speed")]
    profiles = tables.groups(records, "profile")
    if not quality and not speed:
        raise AllocMoEError(
            "there is no quality or speed record to report: measure with `allocmoe eval` or `allocmoe bench` first"
        )
    groups = [q.group for q in quality] + [s.group for s in speed]
    sections = [
        ("quality", "Quality against budget", list(_quality(quality))),
        ("speed", "Speedup against budget", list(_speed(speed))),
        ("plane", "Speed against quality", list(_plane(quality, speed))),
        ("layers", "Experts per layer", list(_layers([q.group for q in quality] or groups))),
        ("sensitivity", "What a layer's experts are worth", list(_sensitivity(profiles))),
        ("spent", "Spent against requested", list(_spent(quality))),
        ("history", "History over commits", [Block(*block) for block in timeline.blocks(records)]),
    ]
    task_groups = list(dict.fromkeys(m for r in records for m in r.metrics if m.startswith("group/")))
    shown = [(key, heading, blocks) for key, heading, blocks in sections if blocks]
    environment = templates()
    environment.filters |= {"times": times, "points": points, "number": number, "name": name, "group": group_name}
    return environment.get_template("page.html.j2").render(
        title=title,
        plotly=packed(get_plotlyjs()),
        reading=[_read_quality(q) for q in quality] + [_read_speed(s) for s in speed],
        sections=shown,
        figures=packed(_compact([json.loads(b.figure.to_json()) for _, _, blocks in shown for b in blocks])),
        verdicts=[q for q in quality if q.verdicts],
        task_groups=task_groups,
        records=records,
        data=packed(_compact(tables.plain([r.to_dict() for r in records]))),
        groups=groups + profiles,
        methods={r.method for r in records},
        untested=[s.group.label for s in speed if s.group.fingerprint not in {q.group.fingerprint for q in quality}],
        environments=_distinct([r.environment for r in records]),
        commands=_distinct([r.command for r in records]),
    )


def templates() -> Environment:
    """The templates beside this module; text put into them is escaped, and a name they lack is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("allocmoe", "report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def packed(text: str) -> str:
    """Text for a script element that the page unpacks: gzip in base64, so nothing in it can end the element."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()  # no time: same records, same page


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


def _quality(quality: Sequence[Quality]) -> Iterator[Block]:
    for q in quality:
        facts = {"windows": q.windows, "items": q.items}
        if any(math.isfinite(r.perplexity) for r in q.rows):
            yield Block(f"Perplexity: {q.group.label}", figures.perplexity(q.rows), facts | {"what": "perplexity"})
        if any(r.accuracy for r in q.rows):
            figure = figures.accuracies(q.rows, tables.chance(q.group))
            yield Block(f"Accuracy: {q.group.label}", figure, facts | {"what": "accuracy"})


def _speed(speed: Sequence[Speed]) -> Iterator[Block]:
    for s in speed:
        rows = [r for r in s.rows if math.isfinite(r.decode.estimate) or math.isfinite(r.prefill.estimate)]
        if rows:
            yield Block(s.group.label, figures.speed(rows), {"rounds": s.rounds})


def _plane(quality: Sequence[Quality], speed: Sequence[Speed]) -> Iterator[Block]:
    for q in quality:
        own = [s for s in speed if s.group.fingerprint == q.group.fingerprint]
        for s in own or speed:
            joined = tables.join(q.rows, s.rows)
            for phase in reversed(PHASES):
                pairs = [(a, b) for a, b in joined if math.isfinite(getattr(b, phase).estimate + a.perplexity)]
                if len(pairs) > 1:
                    facts = {"quality": q.group.label, "speed": s.group.label, "points": len(pairs)}
                    yield Block(f"{PHASES[phase]}: {q.group.label}", figures.plane(pairs, phase), facts)


def _layers(groups: Sequence[Group]) -> Iterator[Block]:
    for group in {g.fingerprint: g for g in reversed(groups)}.values():
        planned = [r for r in group.records if r.details.get("layers") and r.method != ORIGINAL]
        if planned:
            yield Block(group.model, figures.layers(planned), {})


def _sensitivity(profiles: Sequence[Group]) -> Iterator[Block]:
    for group in profiles:
        details, found = group.records[-1].details, {}
        if details.get("perplexity"):
            rise = normalised(np.array(details["perplexity"]), "ratio")
            found["Rise of the perplexity, S(l, k) / S(l, K) - 1"] = (rise, "+.1%")
        if details.get("distances"):
            distances = np.array(details["distances"], dtype=np.float64)
            found["LExI's distance of outputs, D(l, k)"] = (distances, ".3~g")
        if found:
            yield Block(group.label, figures.sensitivity(found), {})


def _spent(quality: Sequence[Quality]) -> Iterator[Block]:
    for q in quality:
        known = [r for r in q.rows if math.isfinite(r.spent)]
        if known:
            most = max(known, key=lambda r: abs(r.spent / r.budget - 1))
            facts = {"method": most.method, "budget": most.budget, "off": f"{most.spent / most.budget - 1:+.1%}"}
            yield Block(q.group.label, figures.spent(known), facts)


def _read_quality(q: Quality) -> list[str]:
    focus, row = _headline(q.rows)
    base = next((r for r in q.rows if r.method == BASELINE and r.budget == row.budget and r is not row), None)
    whole = next((r for r in q.rows if r.method == ORIGINAL), None)
    text = f"{q.group.label}: at {row.share:.0%} of the original's activations ({row.budget} per token), {focus}'s "
    if math.isfinite(row.ratio.estimate):
        text += f"perplexity is {times(row.ratio)} the original's" + (
            f", uniform's {times(base.ratio)}" if base else ""
        )
    else:
        text += f"perplexity is {number(row.perplexity)}"
    scores = {r.method: r.accuracy[MEAN].estimate for r in (row, base, whole) if r and MEAN in r.accuracy}
    if scores:
        text += "; mean accuracy: " + ", ".join(f"{name(m)} {v:.1%}" for m, v in scores.items())
    own = q.verdicts if row.method == FOCUS else tables.comparisons(q.group, row.method)
    lines = [text + ".", *_stated(focus, [c for c in own if c.budget == row.budget])]
    return lines + (list(_stated("uniform", tables.comparisons(q.group, BASELINE, [row.budget]))) if base else [])


def _stated(who: str, verdicts: Sequence[Comparison]) -> Iterator[str]:
    for what, value in (("perplexity", "ratio"), ("accuracy", "difference")):
        known = [c for c in verdicts if c.other != ORIGINAL and math.isfinite(getattr(c, value).estimate)]
        parts = {"better": "better than", "worse": "worse than", "~": "no difference shown from"}
        said = {v: [name(c.other) for c in known if getattr(c, what) == v] for v in parts}
        if known:
            words = "; ".join(f"{parts[v]} {', '.join(names)}" for v, names in said.items() if names)
            yield f"{who[0].upper()}{who[1:]}'s {what} against the other methods at this budget: {words}."


def _read_speed(s: Speed) -> list[str]:
    focus, row = _headline(s.rows)
    text = []
    for phase in PHASES:
        value: Interval = getattr(row, phase)
        if math.isfinite(value.estimate):
            text.append(f"{phase} {times(value)}" + ("" if value.excludes(1) else ", no difference shown"))
    said = f"at {row.share:.0%} of the original's activations, {focus}'s speed over the original's: " + "; ".join(text)
    return [f"{s.group.label}: {said}."] if text else []


def _headline(rows: Sequence[Any]) -> tuple[str, Any]:
    methods = tables.methods(rows)
    method = FOCUS if FOCUS in methods else next((m for m in reversed(methods) if m != ORIGINAL), ORIGINAL)
    row = min((r for r in rows if r.method == method), key=lambda r: (abs(r.share - 0.5), -r.budget))
    return name(method), row


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({json.dumps(v, sort_keys=True): v for v in values}.values())


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
