"""The index of published pages: what each one measures, and the records behind it.

    python -m allocmoe.report.index reports

A page is `<name>.html`; its records are `records/<name>.jsonl` beside it.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from allocmoe import documents, records
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report.page import templates
from allocmoe.report.style import name, rank

NAME = "index.html"


@dataclass(frozen=True)
class Page:
    """A published page; `lines` and `facts` are empty where it has no records beside it."""

    file: str
    title: str
    records: str
    count: int
    lines: list[str]
    facts: dict[str, list[str]]


def write(folder: Path) -> Path:
    """Write the index into the folder of the pages; where it lies. Raises AllocMoEError as `index`."""
    path = Path(folder) / NAME
    documents.write_atomic(path, index(folder))
    return path


def index(folder: Path) -> str:
    """The index of the pages in a folder, as HTML text; equal for equal pages and records.

    Raises AllocMoEError if the folder holds no page, if records cannot be read, or if the packages of
    the `report` extra are missing.
    """
    files = sorted(path for path in Path(folder).glob("*.html") if path.name != NAME)
    if not files:
        raise AllocMoEError(f"{folder} holds no page: write one with `allocmoe report --out {Path(folder) / 'x.html'}`")
    pages = [_page(path) for path in files]
    try:
        environment = templates()
    except ImportError as error:
        raise AllocMoEError(f"the index needs {error.name}: install `allocmoe[report]`") from None
    return environment.get_template("index.html.j2").render(pages=pages)


def _page(path: Path) -> Page:
    beside = path.parent / "records" / f"{path.stem}.jsonl"
    found = records.load(beside) if beside.exists() else []
    title = re.search(r"<title>(.*?)</title>", path.read_text("utf-8"), re.DOTALL)
    facts = {
        "models": _distinct(r.model for r in found),
        "methods": [name(m) for m in sorted({r.method for r in found if r.method}, key=rank)],
        "commit": _distinct(map(_commit, found)),
        "measured": _span(sorted(r.created[:10] for r in found)),
    }
    return Page(
        file=path.name,
        title=html.unescape(title[1]).strip() if title else path.stem,
        records=beside.relative_to(path.parent).as_posix() if found else "",
        count=len(found),
        lines=[_line(about, [r for r in found if r.about == about]) for about in _distinct(r.about for r in found)],
        facts={key: values for key, values in facts.items() if values},
    )


def _line(about: str, found: Sequence[Record]) -> str:
    """What the records about one thing measure, in a few words."""
    methods, budgets = len({r.method for r in found} - {None}), {r.budget for r in found if r.method != "original"}
    text = f"{about.capitalize()} of {', '.join(_distinct(r.model for r in found))}"
    if methods:
        text += f": {methods} method{'s' * (methods > 1)}"
        text += f" at {len(budgets)} budget{'s' * (len(budgets) > 1)}" if budgets else ""
    where = _distinct(str(r.setup.get("text") or r.setup.get("engine") or "") for r in found)
    return text + "".join(f", {w}" for w in where if w)


def _commit(record: Record) -> str:
    known = record.environment.get("commit")
    if not known:
        return "not recorded"
    return f"{known['hash'][:12]} of {known['date'][:10]}{', with changes' if known.get('dirty') else ''}"


def _span(days: Sequence[str]) -> list[str]:
    return [] if not days else [days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m allocmoe.report.index", description="Write the index of pages.")
    parser.add_argument("folder", type=Path)
    try:
        print(f"wrote {write(parser.parse_args().folder)}")
    except AllocMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
