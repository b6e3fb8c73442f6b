"""A page per commit from asv's records, beside asv's site, which links to it and which it links to.

    asv publish
    python -m allocmoe.report.commits .asv/records .asv/html

asv's site leads to `commits/<hash>` (`show_commit_url` in asv.conf.json); the pages lead back, and to the list of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allocmoe import documents, records
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report import page

FOLDER, NEWEST = "commits", 30
SITE, LIST = "../../index.html", "../index.html"


@dataclass(frozen=True)
class Commit:
    """A commit with what was measured at it, on all machines."""

    hash: str
    date: str
    records: list[Record]

    @property
    def title(self) -> str:
        return f"Measured at {self.hash[:10]} of {self.date[:10]}"


def measured(folder: Path) -> list[Commit]:
    """The commits of which the records below a folder tell quality or speed, newest first.

    Raises AllocMoEError for records that cannot be read.
    """
    members: dict[str, list[Record]] = {}
    for path in sorted(Path(folder).rglob("*.jsonl")):
        for record in records.load(path):
            known = record.environment.get("commit") or {}
            if known.get("hash") and not known.get("dirty"):
                members.setdefault(known["hash"], []).append(record)
    made = [Commit(h, str(found[0].environment["commit"].get("date")), found) for h, found in members.items()]
    told = [c for c in made if any(r.about in ("quality", "speed") and r.method for r in c.records)]
    return sorted(told, key=lambda c: c.date, reverse=True)


def write(folder: Path, site: Path, newest: int = NEWEST) -> list[Path]:
    """Write the pages of the newest commits and their list into asv's site; where they lie, the list last.

    Raises AllocMoEError as `measured`, if no commit was measured, or as `page.write`.
    """
    found = measured(folder)[:newest]
    if not found:
        raise AllocMoEError(f"{folder} holds no records of a commit: `asv run` writes them")
    made = []
    for commit in found:
        made.append(Path(site) / FOLDER / commit.hash / "index.html")
        home = {"All measurements (asv)": SITE, "All commits": LIST}
        documents.write_atomic(made[-1], page.render(commit.records, commit.title, home=home))
    made.append(Path(site) / FOLDER / "index.html")
    documents.write_atomic(made[-1], page.templates().get_template("commits.html.j2").render(commits=found))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0: written; 2: there is nothing to write."""
    parser = argparse.ArgumentParser(prog="python -m allocmoe.report.commits", description="Write a page per commit.")
    parser.add_argument("records", type=Path, help="folder of asv's records")
    parser.add_argument("site", type=Path, help="folder of asv's site")
    parser.add_argument("--newest", type=int, default=NEWEST, help="so many commits")
    asked = parser.parse_args(arguments)
    try:
        made = write(asked.records, asked.site, asked.newest)
    except AllocMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {len(made) - 1} pages and {made[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
