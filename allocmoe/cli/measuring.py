"""eval and bench: what a plan costs and what it buys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    Workers,
    check_engine,
    check_machine,
    check_writable,
    note_made_up,
    notes,
    out,
    print_json,
)
from allocmoe.errors import AllocMoEError
from allocmoe.methods import for_windows, left_out
from allocmoe.metrics import METRICS


def eval(
    model: Model,
    plans: Annotated[list[Path] | None, typer.Option("--plan", help="A plan to measure; repeat for several.")] = None,
    to: Annotated[Path, typer.Option("--records", help="Records file to append to.")] = Path("records.jsonl"),
    text: Text = "mini-test",
    windows: Annotated[int, typer.Option(min=1, help="Windows of text.")] = 32,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per batch; Alloc-T's result depends on it.")] = 8,
    as_decode: Annotated[
        bool, typer.Option("--as-decode", help="Route the text as decoding a batch's windows side by side would.")
    ] = False,
    items: Annotated[int, typer.Option(min=0, help="Items per data set, pinned; 0 for perplexity alone.")] = 100,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Data sets by one name: embedded (default), paper (20), nlu, reasoning or math. What of "
            "them cannot be had here is named and left out."
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task, group or tag of lm-eval that must be had; repeat.")
    ] = None,
    data_root: DataRoot = None,
    cap: Annotated[int | None, typer.Option(min=1, help="Tokens that a generated answer may have at most.")] = None,
    task_batch: Annotated[int, typer.Option(min=1, help="Requests per batch in lm-eval.")] = 64,
    workers: Workers = 1,
    engine: Engine = "transformers",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the quality of plans (and always of the unchanged model): perplexity, KL divergence from the unchanged
    model and the share of changed most likely tokens (not with vLLM), and tasks through lm-eval.

    What was measured already, by the records file or the parts beside it, is not measured again.
    Example: [bold]allocmoe eval mini-olmoe --plan plan.json --items 50[/bold]
    Elsewhere: [bold]allocmoe eval MODEL --suite paper --data-root data --items 100 --workers 4 --device cuda[/bold]
    """
    from allocmoe.evaluate.loading import Evaluation
    from allocmoe.evaluate.quality import fill
    from allocmoe.evaluate.tasks.table import SETS
    from allocmoe.evaluate.workers import started
    from allocmoe.methods import allocate as make
    from allocmoe.plan import Plan

    check_engine(engine)
    check_machine(dtype, device)
    check_writable(to)
    if suite is not None and suite not in SETS:
        raise AllocMoEError(
            f"unknown suite {suite[:60]!r}: expected one of {', '.join(SETS)}; a single one is a --task"
        )
    known = [Plan.load(path) for path in plans or []]
    names = (*([suite] if suite else []), *(task or [])) or None
    asked = Evaluation(
        model, engine, dtype, device, text, windows, window, batch, "decode" if as_decode else "prefill",
        items, names, cap, task_batch, str(data_root) if data_root else None, suite is not None, seed,
    )  # fmt: skip
    with started(asked, workers) as measurer:
        spec, fingerprint, missing = measurer.spec, measurer.fingerprint, measurer.missing
        for name, why in missing.items():
            notes.print(f"left out: {name}: {why}", markup=False, soft_wrap=True)
        if lost := [name for name in task or () if name in missing]:
            raise AllocMoEError(f"{lost[0]} was asked for by name: {missing[lost[0]]}")
        wanted = [make("original", spec, fingerprint, spec.original_budget), *known]
        for plan in wanted:
            plan.check_model(spec, fingerprint)
        note_made_up(model, {"--text": text}, tasks=bool(items) and not suite and not task)
        found = fill(measurer, wanted, to, progress=not as_json)
    if as_json:
        rows = [{"method": r.method, "budget": r.budget, "spent": r.spent["per_token"], **r.metrics} for r in found]
        return print_json({"records": str(to), "results": rows, "missing": missing})
    groups = [name for name in found[0].metrics if name.startswith("group/")]
    apart = {n: column for n, column in (("kl", "KL"), ("flips", "flips")) if all(n in r.metrics for r in found)}
    named = [*apart.values(), *(g.removeprefix("group/") for g in groups)]
    table = Table("method", "budget", "spent", "perplexity", *named)
    for r in found:
        shares = [METRICS[n].shown(r.metrics[n]) for n in apart] + [f"{100 * r.metrics[g]:.1f} %" for g in groups]
        table.add_row(
            str(r.method), str(r.budget), f"{r.spent['per_token']:.1f}", f"{r.metrics['perplexity']:.3f}", *shares
        )
    out.print(table)
    out.print(f"records in {to}")
    return None


def measure(
    to: Annotated[Path, typer.Option("--records", help="Records file of this commit.")] = Path("records.jsonl"),
    suite: Annotated[
        str | None, typer.Option(help="small, paper, or a JSON file of what differs from small; else ALLOCMOE_SUITE.")
    ] = None,
    starts: Annotated[int | None, typer.Option(min=0, help="Engine starts; 0 for quality alone.")] = None,
    data_root: DataRoot = None,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Measure a commit: quality of every method, and its speed in several engine starts. What `gate` compares.

    Run it again after an interruption: what the file holds is not measured again.
    Example: [bold]allocmoe measure --starts 1 --records head.jsonl[/bold]
    """
    from dataclasses import replace

    from allocmoe.measure import run as running
    from allocmoe.measure import suite as suites
    from allocmoe.measure.tracked import values

    wanted = suites.installed(suites.chosen(suite))
    check_machine(wanted.dtype, wanted.device)
    check_writable(to)
    wanted = replace(wanted, starts=wanted.starts if starts is None else starts)
    found = running.run(wanted, to, not as_json, workers=workers, data_root=data_root)
    if as_json:
        rows = [{"metric": k[0], "model": k[1], "method": k[2], "share": k[3], "engine": k[4], "value": v}
                for k, v in values(found)]  # fmt: skip
        return print_json({"records": str(to), "results": rows})
    out.print(f"{len(found)} records in {to}: compare with `allocmoe gate`, look with `allocmoe report`")
    return None


def bench(
    shape: Annotated[
        str, typer.Argument(help="olmoe, qwen or deepseek; with -wide or -small for a CPU; olmoe-medium.")
    ],
    to: Annotated[Path, typer.Option("--records", help="Records file to append to.")] = Path("records.jsonl"),
    method: Annotated[
        list[str] | None, typer.Option(help="A method; repeat. Default: all but those for small passes alone.")
    ] = None,
    budget: Annotated[list[float] | None, typer.Option(help="A budget; repeat. Default: the shape's four.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 8,
    prompt: Annotated[int, typer.Option(help="Tokens of prompt.")] = 32,
    decode: Annotated[int, typer.Option(help="Tokens to decode.")] = 128,
    warmups: Annotated[int, typer.Option(help="Untimed rounds.")] = 5,
    runs: Annotated[int, typer.Option(min=2, help="Timed rounds; an interval needs two.")] = 10,
    profile: Annotated[
        Path | None, typer.Option(help="Profile for the plans: of the embedded model for a -wide shape, else its own.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Prompts of this text, for a -wide shape; default: random tokens, as the paper.")
    ] = None,
    engine: Engine = "transformers",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time prefill and decode of a random-weight model of a shape, all methods interleaved in one session.

    A -wide shape runs the plans of the embedded model with its L, N and K, so that its speed belongs to that
    model's quality. Without --profile a small one is made, and kept next to the records.

    Example: [bold]allocmoe bench olmoe-small --method alloc-moe --decode 16 --warmups 1 --runs 3[/bold]
    """
    from allocmoe import records
    from allocmoe.engines import engine_class
    from allocmoe.measure import protocol, shapes
    from allocmoe.measure.planning import plans_for, prompts_of
    from allocmoe.stats import log_ratio

    check_engine(engine)
    check_machine(dtype, device)
    check_writable(to)
    settings = protocol.Protocol(batch, prompt, decode, warmups, runs)
    read = prompts_of(shape, text, settings) if text else None
    live: Any = shapes.build(shape, dtype, device, seed)
    names, budgets = method or for_windows(), budget or live.spec.budgets()
    plans = plans_for(shape, live, names, budgets, given=profile, beside=to, seed=seed, progress=not as_json)
    live = engine_class(engine).adopt(live)
    missing = left_out(names, budgets, plans)
    if missing:
        notes.print(f"this shape has no such schedule, left out: {', '.join(missing)}")
    records.resume(to)
    found = protocol.session(live, plans, settings, seed, not as_json, read)
    for record in found:
        records.append(to, record)
    base, rows = found[0].samples, []
    for r in found:
        phases = {p: log_ratio(base[f"{p}_s"], r.samples[f"{p}_s"]) for p in ("prefill", "decode")}
        rows.append((r, phases))
    if as_json:
        return print_json({"records": str(to), "results": [
            {"method": r.method, "budget": r.budget, **r.metrics,
             **{f"{p}_speedup": [i.estimate, i.low, i.high] for p, i in phases.items()}} for r, phases in rows
        ]})  # fmt: skip
    table = Table("method", "budget", "prefill ms", "prefill speedup", "decode ms/token", "decode speedup", "distinct")
    for r, phases in rows:
        shown = {p: f"{i.estimate:.3f} [{i.low:.3f}, {i.high:.3f}]" for p, i in phases.items()}
        distinct = r.spent["decode"]["distinct_per_layer"]
        table.add_row(
            str(r.method), str(r.budget), f"{r.metrics['prefill_ms']:.2f}", shown["prefill"],
            f"{r.metrics['tpot_ms']:.3f}", shown["decode"], f"{sum(distinct) / len(distinct):.1f}",
        )  # fmt: skip
    out.print(table)
    out.print(f"speedup over original with 95 % interval, {runs} paired rounds; records in {to}")
    return None
