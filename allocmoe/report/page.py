"""The page: what the records say, in words, figures and tables, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report import groups, reading
from allocmoe.report.results import results
from allocmoe.report.sections import SECTIONS, named
from allocmoe.report.style import FOCUS, caveats, group_name, name
from allocmoe.report.words import number, plain, points, times

if TYPE_CHECKING:
    from jinja2 import Environment


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


def render(records: Sequence[Record], title: str, only: Sequence[str] = ()) -> str:
    """The page as HTML text; see `write`."""
    wanted = [named(key) for key in only] or SECTIONS
    try:
        import jinja2 as _templates  # noqa: F401
        from plotly.offline import get_plotlyjs
        from statsmodels import stats as _needed  # noqa: F401
    except ImportError as error:
        raise AllocMoEError(f"the report needs {error.name}: install `allocmoe[report]`") from None
    found = results(records)
    drawn = [(section, list(section.blocks(found))) for section in wanted]
    shown = [(section, blocks) for section, blocks in drawn if blocks]
    task_groups = list(dict.fromkeys(m for r in records for m in r.metrics if m.startswith("group/")))
    measured = {q.group.fingerprint for q in found.quality}
    every = found.groups + found.profiles
    environment = templates()
    environment.filters |= {"times": times, "points": points, "number": number, "name": name, "group": group_name}
    captions = {section.key: environment.from_string(section.caption) for section, _ in shown}
    return environment.get_template("page.html.j2").render(
        title=title,
        plotly=packed(get_plotlyjs()),
        reading=[reading.quality(q) for q in found.quality] + [reading.speed(s) for s in found.speed],
        sections=shown,
        captions=captions,
        figures=packed(_compact([json.loads(b.figure.to_json()) for _, blocks in shown for b in blocks if b.figure])),
        verdicts=[q for q in found.quality if q.verdicts],
        focus=FOCUS,
        task_groups=task_groups,
        records=records,
        data=packed(_compact(plain([r.to_dict() for r in records]))),
        groups=every,
        apart=groups.apart(every),
        caveats=caveats(r.method for r in records if r.method),
        untested=[s.group for s in found.speed if s.group.fingerprint not in measured],
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


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({json.dumps(v, sort_keys=True): v for v in values}.values())


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
