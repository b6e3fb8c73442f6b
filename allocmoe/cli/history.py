"""history: which commit changed what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allocmoe.cli.common import Json, notes, out, print_json
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import METRICS, settings

if TYPE_CHECKING:
    from allocmoe.history import Change, Gap

LEAST = settings({name: 100 * metric.minimum for name, metric in METRICS.items()})


def history(
    files: Annotated[list[Path], typer.Argument(help="Records files, or folders of them (*.jsonl).")],
    worse_only: Annotated[bool, typer.Option("--worse-only", help="Leave out what became better.")] = False,
    min_change: Annotated[
        list[str] | None,
        typer.Option(help=f"METRIC=PERCENT, the smallest change that counts; repeat. Default: {LEAST}."),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Name the first commit of every change in quality and speed, and the commits that were not measured.

    Exit code 0 also where something became worse: judging is not this verb's part.
    Example: [bold]allocmoe history records.jsonl --worse-only --min-change decode=5[/bold]
    """
    least = minimum(min_change or [])
    from allocmoe import history as past
    from allocmoe import records

    found = [record for path in listed(files) for record in records.load(path)]
    lines = past.series(found)
    changes = [c for c in past.changes(lines, least) if c.direction == "worse" or not worse_only]
    gaps = past.gaps(lines)
    commits = len(lines[0].commits) if lines else 0
    unnamed = sum(not past.named(r) for r in found)
    timed = sum(METRICS[s.metric].noise for s in lines)
    if as_json:
        return print_json({
            "series": len(lines), "commits": commits, "records_without_commit": unnamed,
            "changes": [_change(c) for c in changes], "gaps": [_gap(g) for g in gaps],
        })  # fmt: skip
    if unnamed:
        notes.print(f"{unnamed} of {len(found)} records do not say which commit they measured: left out")
    for change in changes:
        where = f"{change.commit.short}  {change.commit.day}  {change.direction:6}"
        _line(f"{where}  {past.words(change)}")
    for text in _missing(gaps):
        _line(text)
    some = f"{past.plural(len(lines), 'series', 'series')} over {past.plural(commits, 'commit')}"
    _line(f"{some}; {past.plural(len(changes), 'change')}")
    if timed:
        _line(f"By chance alone about {past.ALPHA * timed:.2g} of the {timed} timed series would show one.")
    return None


def listed(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those of the folders named.

    Raises AllocMoEError for a folder without any.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise AllocMoEError(f"the folder {path} holds no records (*.jsonl): name the one that does")
        found += inside
    return found


def minimum(texts: Sequence[str]) -> dict[str, float]:
    """METRIC=PERCENT as metric -> share.

    Raises AllocMoEError for another form, an unknown metric, or a percentage below 0.
    """
    found = {}
    for text in texts:
        metric, _, percent = text.partition("=")
        if metric not in METRICS:
            raise AllocMoEError(f"--min-change {text[:80]!r} names no metric: expected one of {', '.join(METRICS)}")
        try:
            found[metric] = float(percent) / 100
        except ValueError:
            found[metric] = -1.0
        if not 0 <= found[metric] < 10:
            raise AllocMoEError(f"--min-change {text[:80]!r} is not METRIC=PERCENT from 0 to 1000, like perplexity=0.2")
    return found


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _missing(gaps: Sequence[Gap]) -> list[str]:
    """A line for what was not measured at the same commits."""
    from allocmoe.history import plural, title

    together: dict[Any, list[Gap]] = {}
    for gap in gaps:
        together.setdefault((gap.series.model, gap.commits), []).append(gap)
    lines = []
    for (model, commits), members in together.items():
        where = f"{commits[0].short}  {commits[0].day}  not measured"
        until = "to the newest" if members[0].last else "in all"
        what = title(members[0].series) if len(members) == 1 else f"{len(members)} series of {model}"
        lines.append(f"{where}, {plural(len(commits), 'commit')} {until}  {what}")
    return lines


def _series(one: Any) -> dict[str, Any]:
    names = ("model", "method", "budget", "metric", "engine", "label")
    return {name: getattr(one, name) for name in names}


def _change(change: Change) -> dict[str, Any]:
    relative = change.relative if change.before else None
    return {
        **_series(change.series), "commit": change.commit.hash, "date": change.commit.date,
        "dirty": change.commit.dirty, "previous": change.previous.hash, "between": change.between,
        "before": change.before, "after": change.after, "relative": relative,
        "direction": change.direction, "p": change.p,
    }  # fmt: skip


def _gap(gap: Gap) -> dict[str, Any]:
    first = gap.commits[0]
    return {
        **_series(gap.series), "commit": first.hash, "date": first.date,
        "commits": [c.hash for c in gap.commits], "last": gap.last,
    }  # fmt: skip
