"""baseline and gate: what a measurement is compared with, and whether it got worse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allocmoe.cli.common import Json, check_writable, print_json
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import METRICS, settings

MARGINS = settings({name: metric.margin for name, metric in METRICS.items()})
OTHERS = ", ".join(f"{name} in {metric.unit}" for name, metric in METRICS.items() if metric.unit != "%")
New = Annotated[Path, typer.Argument(help="Records of one commit, with several sessions of speed.")]


def baseline(
    new: New,
    to: Annotated[Path, typer.Option("--to", help="The baseline to replace.")] = Path("baseline.jsonl"),
    check: Annotated[bool, typer.Option("--check", help="Only show what would change.")] = False,
    as_json: Json = False,
) -> None:
    """Make a measurement the baseline, and show what that changes. Not a gate: it ends with 0 whatever changed.

    Example: [bold]allocmoe baseline records.jsonl --to baseline.jsonl[/bold]
    """
    from allocmoe import documents, records
    from allocmoe.gate import compare, show
    from allocmoe.gate.pairing import keys

    found = records.load(new)
    if not keys(found):
        raise AllocMoEError(
            f"{new} holds no quality or speed record to compare with: measure with `allocmoe eval` or `bench` first"
        )
    gate = compare(found, records.load(to) if to.exists() else [])
    if mixed := gate.mixed:
        raise AllocMoEError(f"{mixed}: a baseline is the measurement of one commit, measure it again")
    if not check:
        documents.write_atomic(to, new.read_text("utf-8"))
    done = f"{to} is left as it was" if check else f"{to} now holds {len(found)} records"
    if as_json:
        return print_json({"baseline": str(to), "replaced": not check, **show.document(gate)})
    print(show.text(gate))
    print(done)
    return None


def gate(
    new: New,
    baseline: Annotated[Path, typer.Option(help="Records of the baseline.")],
    floors: Annotated[Path | None, typer.Option(help="Absolute limits, an allocmoe.floors document.")] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(help=f"METRIC=PERCENT a worsening may be ({OTHERS}); repeat. Default: {MARGINS}."),
    ] = None,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Compare quality, never speed, of two machines.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option(envvar="GITHUB_STEP_SUMMARY", help="Append the table as Markdown to this file.")
    ] = None,
    comment: Annotated[
        Path | None, typer.Option(help="Write the verdict as Markdown for a pull request to this file.")
    ] = None,
    past: Annotated[
        list[Path] | None,
        typer.Option("--history", help="Records of earlier commits, files or folders, for the comment; repeat."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Exit with 1 if anything got worse than the baseline, 2 if something could not be measured, else 0.

    A row passes if it is shown not to be worse by the margin or more. The milliseconds of the original
    itself are shown but not judged: a machine drifts between two measurements.
    Example: [bold]allocmoe gate records.jsonl --baseline baseline.jsonl[/bold]
    """
    from allocmoe import documents, history, records
    from allocmoe.cli.history import listed
    from allocmoe.gate import compare, load_floors, read_margins, show
    from allocmoe.gate.comment import comment as worded

    for path in filter(None, (summary, comment)):
        check_writable(path)
    limits, mine = load_floors(floors) if floors else {}, records.load(new)
    found = compare(mine, records.load(baseline), read_margins(margin or []), limits, across_machines)
    if as_json:
        print_json(show.document(found))
    else:
        print(show.text(found))
    if summary:
        with summary.open("a", encoding="utf-8") as file:
            file.write(show.markdown(found))
    if comment:
        earlier = [record for path in listed(past or []) for record in records.load(path)]
        documents.write_atomic(comment, worded(found, history.series([*earlier, *mine]) if earlier else []))
    raise typer.Exit(found.code)
