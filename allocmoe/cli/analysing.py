"""analyse: the paper's analyses of one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from allocmoe.analyses import ANALYSES, Setting
from allocmoe.analyses import analysis as known
from allocmoe.cli.common import (
    DataRoot,
    Device,
    Dtype,
    Json,
    Model,
    Seed,
    Text,
    check_writable,
    load_engine,
    note_made_up,
    notes,
    out,
    print_json,
)


def analyse(
    model: Model,
    analysis: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(ANALYSES)}; repeat. Default: all.")
    ] = None,
    to: Annotated[Path, typer.Option("--records", help="Records file to append to.")] = Path("analyses.jsonl"),
    beside: Annotated[
        list[Path] | None, typer.Option(help="Records of other files, which are not measured again; repeat.")
    ] = None,
    text: Text = "mini-test",
    windows: Annotated[int, typer.Option(min=1, help="Windows of text.")] = 128,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per batch; Alloc-T's result depends on it.")] = 8,
    items: Annotated[int, typer.Option(min=0, help="Items per data set, pinned; 0 for perplexity alone.")] = 150,
    task: Annotated[list[str] | None, typer.Option(help="As of eval; repeat. Default: embedded.")] = None,
    data_root: DataRoot = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="A calibration text, as --text; repeat. Plans are made with the first. Default: mini-train."),
    ] = None,
    calibration_windows: Annotated[int, typer.Option(min=1, help="Windows of each of them.")] = 64,
    profile: Annotated[
        Path | None, typer.Option(help="Profile of the first calibration text. Default: made, and kept beside.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the paper's analyses on a model: load of experts, kept experts against entropy, ablation, k_base, ...

    Run it again after an interruption: what the file holds is not measured again. `report` shows the results.
    Example: [bold]allocmoe analyse mini-olmoe --analysis load --windows 4 --calibration-windows 2[/bold]
    """
    chosen = [known(name) for name in analysis or ANALYSES]
    check_writable(to)
    texts = calibration or ["mini-train"]
    asked = items if any(one.scored for one in chosen) else 0
    engine = load_engine(model, dtype, device)
    setting = _setting(
        engine, to, beside or [], (text, windows, window, batch), (asked, task, data_root),
        (texts, calibration_windows), profile, seed, not as_json,
    )  # fmt: skip
    note_made_up(model, {"--text": text, "--calibration": texts[0]}, bool(asked) and not task)
    rows = []
    for one in chosen:
        if not as_json:
            notes.print(f"{one.name}: {one.about} ({one.paper})", markup=False, highlight=False)
        found = one.run(setting)
        rows += [{"analysis": one.name, "method": r.method, "budget": r.budget, "metrics": r.metrics} for r in found]
    if as_json:
        return print_json({"records": str(to), "results": rows})
    table = Table("analysis", "paper", "records")
    for one in chosen:
        table.add_row(one.name, one.paper, str(sum(row["analysis"] == one.name for row in rows)))
    out.print(table)
    out.print(f"records in {to}; look with `allocmoe report`")
    return None


def _setting(
    engine: Any,
    to: Path,
    beside: Sequence[Path],
    held_out: tuple[str, int, int, int],
    tasks: tuple[int, list[str] | None, Path | None],
    calibration: tuple[Sequence[str], int],
    given: Path | None,
    seed: int,
    progress: bool,
) -> Setting:
    from allocmoe import records
    from allocmoe.analyses.setting import earlier, profiles
    from allocmoe.data.text import windows as cut

    text, count, length, batch = held_out
    items, names, data_root = tasks
    suite = None
    if items:
        from allocmoe.evaluate.tasks.suite import TaskSuite

        suite = TaskSuite(engine, names, data_root=data_root)
    texts = tuple(cut(engine.tokenizer, name, calibration[1], length) for name in calibration[0])
    return Setting(
        engine=engine,
        text=cut(engine.tokenizer, text, count, length),
        batch=batch,
        out=to,
        profiles=profiles(engine, texts[0], batch, to, given, seed, progress),
        calibrations=texts,
        suite=suite,
        items=items,
        budgets=tuple(engine.spec.budgets()),
        earlier=earlier(record for path in beside for record in records.load(path)),
        seed=seed,
        progress=progress,
    )
