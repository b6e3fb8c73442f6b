"""data: local files for lm-eval's tasks, for machines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from allocmoe.cli.common import Json, check_writable, notes, out, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Local data for lm-eval's tasks. A data root is a folder with ROOT/TASK/SPLIT.jsonl, or "
    "ROOT/DATASET/CONFIG/SPLIT.jsonl; fetch one on a connected machine, copy it, and name it with --data-root.",
)
Root = Annotated[Path, typer.Argument(help="The data root, a folder.")]
Names = Annotated[list[str] | None, typer.Option("--task", help="paper (default), nlu, reasoning, math, or a task.")]


@app.command()
def fetch(root: Root, task: Names = None, as_json: Json = False) -> None:
    """Write what the data sets need below ROOT, from the hub. What is there already stays; run it again to go on.

    Exit code 1 if some could not be had; they are listed.
    Example: [bold]allocmoe data fetch data --task paper[/bold]
    """
    from allocmoe.evaluate.tasks.fetching import fetch as write

    check_writable(root / ".allocmoe")
    failed = write(root, task or ["paper"], progress=not as_json)
    _show(root, task, as_json, failed)
    if failed:
        raise typer.Exit(1)


@app.command("list")
def show(root: Root, task: Names = None, as_json: Json = False) -> None:
    """List what ROOT holds of the data sets, and what it lacks.

    Example: [bold]allocmoe data list data --task nlu[/bold]
    """
    _show(root, task, as_json, {})


def _show(root: Path, task: list[str] | None, as_json: bool, failed: dict[str, str]) -> None:
    from allocmoe.evaluate.tasks.fetching import look

    found = look(root, task or ["paper"])
    if as_json:
        print_json({"root": str(root), "sets": [vars(one) for one in found], "failed": failed})
        return
    table = Table("data set", "lm-eval tasks", "rows", "missing")
    for one in found:
        table.add_row(one.name, f"{one.here} of {one.tasks}", str(one.rows), one.missing)
    out.print(table)
    for name, why in failed.items():
        notes.print(f"not fetched: {name}: {why}", markup=False, soft_wrap=True)
    whole = sum(not one.missing for one in found)
    out.print(f"{whole} of {len(found)} data sets can be measured with --data-root {root}")
