"""The page: what to use and what it costs, then figures, tables and how it was measured, as one HTML file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report import answer, groups
from allocmoe.report.glyphs import glyph, legend
from allocmoe.report.results import Results, results
from allocmoe.report.section import Block, Section
from allocmoe.report.sections import SECTIONS, named
from allocmoe.report.style import FOCUS, ORIGINAL, caveats, group_name, name, rank, style
from allocmoe.report.table import drawn
from allocmoe.report.words import number, plain, points, times

if TYPE_CHECKING:
    from jinja2 import Environment

    from allocmoe.report.choices import Choice

BARE = 34
"""Pixels above a figure without a legend: room for the titles of its panels."""


@dataclass(frozen=True)
class Tab:
    """One model of the page.

    Attributes:
        model: its name.
        choice: the plans to choose between; None where no quality was measured.
        words: what there is to say then.
        methods, budgets: of its records: what a reader may choose.
        engines: those that timed it, more than one: what a reader may choose.
    """

    model: str
    choice: Choice | None
    words: list[str]
    methods: list[str]
    budgets: list[int]
    engines: list[str]


def write(records: Sequence[Record], path: Path, title: str, only: Sequence[str] = ()) -> None:
    """Write the report of some records as one HTML page, whole or not at all.

    Args:
        records: of any kinds; of several of one method, budget, setup and machine the latest counts.
        path: of the page; it works from the disk and loads nothing.
        title: its heading, plain text.
        only: the sections of figures to draw, by name; all if empty.

    Raises AllocMoEError if no record is about quality or speed, if a section is unknown, if the packages of
    the `report` extra are missing, or if the page cannot be written.
    """
    documents.write_atomic(path, render(records, title, only))


def render(
    records: Sequence[Record], title: str, only: Sequence[str] = (), home: Mapping[str, str] | None = None
) -> str:
    """The page as HTML text; see `write`. `home`: where it leads to, text -> relative address."""
    wanted = [named(key) for key in only] or SECTIONS
    try:
        import jinja2 as _templates  # noqa: F401
        from plotly.offline import get_plotlyjs
        from statsmodels import stats as _needed  # noqa: F401
    except ImportError as error:
        raise AllocMoEError(f"the report needs {error.name}: install `allocmoe[report]`") from None
    found = results(records)
    shown = tabs(found)
    sections = _drawn(found, wanted, [tab.model for tab in shown])
    methods = sorted({r.method for r in records if r.method}, key=rank)
    measured = {q.group.fingerprint for q in found.quality}
    every = found.groups + found.profiles
    environment = templates()
    environment.filters |= {
        "times": times, "points": points, "number": number, "name": name, "group": group_name, "glyph": glyph,
        "legend": legend,
    }  # fmt: skip
    captions = {section.key: environment.from_string(section.caption) for section, _ in sections}
    figures = [_undressed(b.figure) for _, blocks in sections for b in blocks if b.figure]
    looks = {m: {"name": name(m), **style(m)._asdict()} for m in methods}
    return environment.get_template("page.html.j2").render(
        title=title,
        home=home or {},
        tabs=shown,
        original=ORIGINAL,
        focus=FOCUS,
        sections=sections,
        captions=captions,
        records=records,
        task_groups=list(dict.fromkeys(m for r in records for m in r.metrics if m.startswith("group/"))),
        groups=every,
        apart=groups.apart(every),
        caveats=caveats(methods),
        untested=[s.group for s in found.speed if s.group.fingerprint not in measured],
        environments=_distinct([r.environment for r in records]),
        commands=_distinct([r.command for r in records]),
        packs={
            "plotly": packed(get_plotlyjs()),
            "figures": packed(_compact(figures)),
            "choices": packed(_compact([tab.choice.about for tab in shown if tab.choice])),
            "looks": packed(_compact(looks)),
            "data": packed(_compact(plain([r.to_dict() for r in records]))),
        },
    )


def tabs(found: Results) -> list[Tab]:
    """A tab per model: those whose quality was measured, then those of which only a speed is known."""
    by_model = {choice.q.group.model: choice for choice in found.choices}
    owners = [s.group.owner.get("model") or s.group.model for s in found.speed]
    made = []
    for model in dict.fromkeys([*by_model, *owners]):
        mine = [g for g in found.groups if model in (g.model, g.owner.get("model"))]
        rows = [r for g in mine for r in g.records]
        choice = by_model.get(model)
        words = [] if choice else [answer.speed(s) for s in found.speed if s.group in mine]
        methods = sorted({r.method for r in rows if r.method}, key=rank)
        budgets = sorted({r.budget for r in rows if r.budget and r.method != ORIGINAL}, reverse=True)
        engines = list(dict.fromkeys(str(g.setup.get("engine", "")) for g in mine if g.about == "speed"))
        made.append(Tab(model, choice, [w for w in words if w], methods, budgets, engines if len(engines) > 1 else []))
    return made


def _drawn(found: Results, wanted: Sequence[Section], models: Sequence[str]) -> list[tuple[Section, list[Block]]]:
    """The sections that have something to show, each block with its model and its table."""
    methods = sorted({r.method for r in found.records if r.method}, key=rank)
    made = [(section, [_whole(b, models, methods) for b in section.blocks(found)]) for section in wanted]
    return [(section, blocks) for section, blocks in made if blocks]


def _whole(block: Block, models: Sequence[str], methods: Sequence[str]) -> Block:
    model = block.model if block.model in models else next((m for m in models if m in block.title), "")
    table = block.table or (drawn(block.figure, methods) if block.figure else None)
    return replace(block, model=model, table=table)


def _undressed(figure: Any) -> dict[str, Any]:
    """A figure as the script draws it: without legend and template, which the page has."""
    made = json.loads(figure.to_json())
    layout = made["layout"]
    spare = max(0, layout["margin"]["t"] - BARE)
    layout |= {"height": layout["height"] - spare, "margin": {**layout["margin"], "t": layout["margin"]["t"] - spare}}
    made["layout"] = {k: v for k, v in layout.items() if k not in ("legend", "template")} | {"showlegend": False}
    return made


def templates() -> Environment:
    """The templates beside this module; text put into them is escaped, and a name they lack is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("allocmoe", "report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def packed(text: str) -> str:
    """Text for a script element that the page unpacks: gzip in base64, so nothing in it can end the element."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()  # no time: same records, same page


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({json.dumps(v, sort_keys=True): v for v in values}.values())


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
