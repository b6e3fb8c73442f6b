"""Fill the figures of documents from the records, or check that they are filled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.report.prose.marks import fill
from allocmoe.report.prose.sources import Sources


def main(arguments: Sequence[str] | None = None) -> int:
    """0: done, or nothing to do; 1: `--check` found a document that is behind; 2: a figure cannot be computed."""
    parser = argparse.ArgumentParser(prog="python -m allocmoe.report.prose", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="Markdown files")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if something would change")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder with records/ and baselines/")
    asked = parser.parse_args(arguments)
    sources, behind = Sources(asked.reports), 0
    try:
        for path in asked.files:
            behind += _one(path, sources, asked.check)
    except AllocMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if behind else 0


def _one(path: Path, sources: Sources, check: bool) -> int:
    """How many lines a check finds behind the records; a document that is not checked is written."""
    try:
        old = path.read_text("utf-8")
    except OSError as error:
        raise AllocMoEError(f"cannot read {path}: {error.strerror}") from None
    new = fill(old, sources, str(path))
    if new == old:
        return 0
    if not check:
        documents.write_atomic(path, new)
        print(f"{path}: filled")
        return 0
    pairs = enumerate(zip(old.splitlines(), new.splitlines(), strict=False), start=1)
    line = next((number for number, (was, now) in pairs if was != now), len(old.splitlines()))
    print(f"{path}:{line}: not as the records have it; fill it: python -m allocmoe.report.prose {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
