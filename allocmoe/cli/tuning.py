"""fit and tune: what a decode step costs here, and the plan from a wish."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from allocmoe.cli.common import (
    DataRoot,
    Device,
    Dtype,
    Engine,
    Json,
    Model,
    Seed,
    Text,
    check_engine,
    check_machine,
    check_writable,
    note_made_up,
    notes,
    out,
    print_json,
)
from allocmoe.errors import AllocMoEError

UNMET = 3
BUSY = 0.1
"""A fit that is off by more, relative, is worth a word."""
Timed = Annotated[str, typer.Argument(help="A checkpoint folder, a hub name, an embedded model, or a shape of bench.")]


def fit(
    model: Timed,
    to: Annotated[Path, typer.Option("--records", help="Records file to append to.")] = Path("cost.jsonl"),
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1024, help="Sequences that decode together; repeat. Default: 8."),
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of prompt.")] = 32,
    decode: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 32,
    warmups: Annotated[int, typer.Option(min=0, help="Untimed rounds.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    engine: Engine = "transformers",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure what a decode step costs here: ms per distinct expert, per kept pair, and the rest.

    Some 30 plans that touch different numbers of experts and keep different numbers of pairs are timed in one
    session; a few that are left out of the fit say how well it predicts. A session of this machine that the file
    holds already is not timed again.
    Example: [bold]allocmoe fit olmoe-small --batch 4 --decode 4 --runs 2 --records cost.jsonl[/bold]
    """
    from allocmoe import records
    from allocmoe.measure import fit as fitting
    from allocmoe.measure.protocol import Protocol
    from allocmoe.records import Record

    check_engine(engine)
    check_machine(dtype, device)
    check_writable(to)
    records.resume(to)
    batches = sorted(set(batch or [8]))
    settings = Protocol(batches[0], prompt, decode, warmups, runs)
    cost = Record.from_dict(fitting.start(engine, model, dtype, device, batches, settings, to, seed, not as_json))
    records.append(to, cost)
    if as_json:
        return print_json({"records": str(to), **cost.metrics, "intervals": cost.details["intervals"]})
    table = Table("what", "ms", "95 % interval")
    for name, words in fitting.named(cost).items():
        low, high = cost.details["intervals"][name]
        table.add_row(words, f"{cost.metrics[name]:.4f}", f"{low:.4f} to {high:.4f}")
    out.print(table)
    out.print(
        f"{len(cost.details['points'])} plans timed; of those kept out of the fit the furthest is off by "
        f"{100 * cost.metrics['held_out_error']:.1f} %; wrote {to}"
    )
    return None


def tune(
    model: Model,
    speedup: Annotated[float | None, typer.Option(help="Of a decode step over the unchanged model, like 1.5.")] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(help="1% (perplexity), '0.02 nats' (KL divergence) or '1 points' (task accuracy) at most."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Sequences that decode together.")] = 8,
    minutes: Annotated[float, typer.Option(help="About how long to take; more time is more windows and rounds.")] = 30,
    to: Annotated[Path, typer.Option("--out", help="Folder for plan, records and report.")] = Path("out/tune"),
    text: Text = "mini-test",
    calibration: Annotated[str, typer.Option(help="Another text, for the profile.")] = "mini-train",
    method: Annotated[
        list[str] | None, typer.Option(help="A method to try; repeat. Default: all that could win.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Shape whose steps are timed. Default: an embedded model's -wide one.")
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Items per data set, for a loss in points.")] = 100,
    task: Annotated[
        list[str] | None, typer.Option(help="For a loss in points: as of eval; repeat. Default: embedded.")
    ] = None,
    data_root: DataRoot = None,
    engine: Engine = "transformers",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find the plan that makes decode so much faster at the least loss, or that is fastest at so little loss.

    Fits what a step costs here, profiles the model, measures the candidates that could win, and times the best.
    Exit 0: the wish is met; 3: it cannot be had, and the nearest that can is told. Interrupted, it goes on.
    Example: [bold]allocmoe tune mini-qwen --speedup 1.2 --minutes 3 --out out/tune[/bold]
    """
    from allocmoe.mini import resolve
    from allocmoe.tune import run as tuning
    from allocmoe.tune.wish import WORDS, Limit, Wish

    check_engine(engine)
    check_machine(dtype, device)
    wish = Wish(speedup, Limit.parse(max_loss) if max_loss is not None else None)
    if task and wish.metric != "accuracy":
        raise AllocMoEError("--task is for a loss in points: give --max-loss '1 points', or leave --task out")
    asked = tuning.Model(
        model, engine, shape, text, calibration, dtype, device, tuple(method or ()), items, tuple(task or ()),
        str(data_root) if data_root else None, seed,
    )  # fmt: skip
    tuning.check(asked, wish, batch, minutes)
    check_writable(to / "records.jsonl")
    asks_made_up = wish.metric == "accuracy" and not task
    note_made_up(model, {"--text": text, "--calibration": calibration}, asks_made_up)
    found = tuning.tune(asked, wish, to, batch=batch, minutes=minutes, progress=not as_json)
    if as_json:
        print_json(found)
        raise typer.Exit(0 if found["met"] else UNMET)
    table = Table("plan", "method", "budget", "speedup promised", "measured", "loss promised", "measured")
    for end in found["ends"]:
        promised, (fast, lost) = end["promised"], (end["measured"][n] for n in ("speedup", "loss"))
        table.add_row(
            Path(end["plan"]).name, end["method"], str(end["budget"]), f"{promised['speedup']:.2f}x",
            f"{fast[0]:.2f}x ({fast[1]:.2f} to {fast[2]:.2f})",
            f"{promised['loss']:.3g}", f"{lost[0]:.3g} ({lost[1]:.3g} to {lost[2]:.3g})",
        )  # fmt: skip
    out.print(table)
    out.print(f"loss in {WORDS[found['metric']]}; intervals of 95 %; {batch} sequences at a time")
    out.print(f"Open {found['report']} in a browser. Records: {found['records']}")
    if found["prediction_error"] > BUSY:
        off = f"{100 * found['prediction_error']:.0f} %"
        why = "was the machine busy? On a quiet one a better plan may be found"
        notes.print(f"note: predicted speeds were off by up to {off}: {why}", style="yellow", highlight=False)
    if not found["met"]:
        notes.print(f"{found['asked']} cannot be had: the table has the nearest that can", style="red", highlight=False)
    config = json.dumps({"allocmoe": {"plan": found["plan"]}})
    line = shlex.join(["vllm", "serve", str(resolve(model)), "--dtype", dtype, "--additional-config", config])
    out.print(f"To serve it (docs/serve.md): {line}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found["met"] else UNMET)
