"""report and demo: records made into a page, and the whole way there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from allocmoe.cli.common import Json, Seed, out, print_json


def report(
    files: Annotated[list[Path], typer.Argument(help="Records files.")],
    to: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Its title.")] = "Alloc-MoE: what a budget costs and buys",
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page from records.

    Example: [bold]allocmoe report records.jsonl --out report.html[/bold]
    """
    from allocmoe import records
    from allocmoe import report as pages

    found = [record for path in files for record in records.load(path)]
    pages.write(found, to, title)
    if as_json:
        return print_json({**pages.summary(found), "page": str(to)})
    out.print(f"{len(found)} records; wrote {to}")
    return None


def demo(
    to: Annotated[Path, typer.Option("--out", help="Folder for profile, plans, records and page.")] = Path("out/demo"),
    model: Annotated[str, typer.Option(help="An embedded model, or a checkpoint folder.")] = "mini-olmoe",
    shape: Annotated[
        str | None, typer.Option(help="Shape whose speed is measured, see bench. Default: the model's own -wide one.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every method, the paper's protocol, all items: hours.")] = False,
    items: Annotated[int | None, typer.Option(min=1, help="Items per task, instead of the size's own.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Profile, allocate the paper's methods at the four budgets, evaluate, time, find a plan for a wish, and write the
    page. With --full every method.

    Interrupted, it goes on where it was. Example: [bold]allocmoe demo --out out/demo[/bold]
    """
    from allocmoe import demo as pipeline

    size = pipeline.FULL if full else pipeline.QUICK
    size = replace(size, items=items) if items else size
    found = pipeline.demo(model, to, size, shape=shape, seed=seed, progress=not as_json)
    if as_json:
        return print_json(found)
    wish = found["tune"]
    nearest = "" if wish["met"] else "not to be had, the nearest is "
    fast = f"measured {wish['measured']['speedup'][0]:.2f}x"
    out.print(f"{wish['asked']}: {nearest}{wish['method']} at {wish['budget']}, {fast}; plan {wish['plan']}")
    out.print(f"Open {found['page']} in a browser. Records: {found['records']}, plans: {to / 'plans'}")
    return None
