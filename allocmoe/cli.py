"""The verbs. Each one's --help has an example that runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from allocmoe import __version__
from allocmoe.errors import AllocMoEError
from allocmoe.methods import DEFAULT_NORMALIZE, METHODS

app = typer.Typer(
    name="allocmoe",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve mixture-of-experts models under an expert-activation budget, and know what it costs.",
)
out = Console()
notes = Console(stderr=True)
INTERRUPTED = 130

Model = Annotated[str, typer.Argument(help="A checkpoint folder, or the name of an embedded model.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, as the last line of stdout.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Text = Annotated[str, typer.Option(help="A text file (plain or .xz), or mini-train or mini-test, which are generated.")]
Budget = Annotated[float | None, typer.Option(help="B, activations per token over all MoE layers. Default: half.")]
Method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]


def _engine(model: str, dtype: str, device: str) -> Any:
    from allocmoe.engines.hf import HFEngine
    from allocmoe.mini import resolve

    _check_machine(dtype, device)
    return HFEngine.load(resolve(model), dtype, device)


def _check_machine(dtype: str, device: str) -> None:
    import torch

    from allocmoe.engines.hf import DTYPES

    if dtype not in DTYPES:
        raise AllocMoEError(f"unknown dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if device not in devices:
        raise AllocMoEError(f"no device {device!r} here: expected {' or '.join(devices)}")


def _check_writable(path: Path) -> None:
    """Better now than after the measurement."""
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise AllocMoEError(f"cannot write {path}: {error.strerror}") from None


def _print_json(document: Any) -> None:
    print(json.dumps(document, allow_nan=False))


@app.command()
def models(
    model: Annotated[str | None, typer.Argument(help="A checkpoint folder or embedded model to describe.")] = None,
    as_json: Json = False,
) -> None:
    """What ships, what is supported; or the routing shape and budgets of one model.

    Example: [bold]allocmoe models mini-olmoe[/bold]
    """
    from allocmoe.mini import resolve, shipped
    from allocmoe.spec import FAMILIES, MoESpec

    chosen = [model] if model else shipped()
    specs = {name: MoESpec.from_folder(resolve(name)) for name in chosen}
    if as_json:
        rows = [{"model": n, **s.to_dict(), "budgets": s.budgets()} for n, s in specs.items()]
        return _print_json({"models": rows, "families": list(FAMILIES), "methods": list(METHODS)})
    table = Table("model", "family", "MoE layers L", "experts N", "top-k K", "L x K", "budgets")
    for name, s in specs.items():
        budgets = " ".join(map(str, s.budgets()))
        table.add_row(
            name, s.family, str(s.layers), str(s.experts), str(s.top_k), str(s.original_budget), budgets
        )  # fmt: skip
    out.print(table)
    if not model:
        out.print(f"Families read from a config: {', '.join(FAMILIES)}.")
        table = Table("method", "layer rule", "token rule", "what it is")
        for name, row in METHODS.items():
            table.add_row(name, row.layer_rule, row.token_rule, row.about)
        out.print(table)
    return None


@app.command()
def profile(
    model: Model,
    to: Annotated[Path, typer.Option("--out", help="The profile to write.")] = Path("profile.json"),
    text: Text = "mini-train",
    windows: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 64,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per batch.")] = 8,
    naive: Annotated[bool, typer.Option(help="Algorithm 1 as printed: slow, for any model.")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure how sensitive each layer is (Algorithm 1), with LExI's distances and all thresholds.

    Interrupted, it goes on where it was.
    Example: [bold]allocmoe profile mini-olmoe --windows 8 --out profile.json[/bold]
    """
    from allocmoe.evaluate.text import windows as cut
    from allocmoe.profile.run import profile as run

    _check_writable(to)
    engine = _engine(model, dtype, device)
    calibration = cut(engine.tokenizer, text, windows, window)
    partial = to.with_name(to.name + ".partial")
    found = run(engine, calibration, batch, partial=partial, naive=naive, seed=seed, progress=not as_json)
    found.save(to)
    if as_json:
        return _print_json({**found.to_dict(), "path": str(to)})
    table = Table("layer", *[f"k={k}" for k in range(1, found.spec.top_k + 1)], title="perplexity S[layer, k]")
    for layer, row in enumerate(found.perplexity):
        table.add_row(str(layer), *[f"{v:.3f}" for v in row])
    out.print(table)
    out.print(f"{found.evaluations} evaluations on {calibration.ids.numel()} tokens; wrote {to}")
    return None


@app.command()
def allocate(
    model: Model,
    method: Method = "alloc-moe",
    budget: Budget = None,
    profile: Annotated[
        Path | None, typer.Option(help="A profile of this model, for the methods that need one.")
    ] = None,
    to: Annotated[Path, typer.Option("--out", help="The plan to write.")] = Path("plan.json"),
    normalize: Annotated[str, typer.Option(help="Rows of Alloc-L's matrix: raw, ratio or log.")] = DEFAULT_NORMALIZE,
    k_base: Annotated[int, typer.Option(help="Experts every token keeps under Alloc-T.")] = 1,
    reference: Annotated[str, typer.Option(help="Denominator after dropping: original or survivors.")] = "original",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Spend a budget: write the plan of a method for a model.

    Example: [bold]allocmoe allocate mini-olmoe --method uniform --budget 64 --out plan.json[/bold]
    """
    from allocmoe.methods import allocate as make
    from allocmoe.mini import resolve
    from allocmoe.profile.sensitivity import Sensitivity
    from allocmoe.spec import MoESpec, fingerprint

    folder = resolve(model)
    spec = MoESpec.from_folder(folder)
    known = Sensitivity.load(profile) if profile else None
    default = spec.original_budget if method == "original" else max(spec.layers, spec.original_budget // 2)
    options: dict[str, Any] = {"normalize": normalize, "k_base": k_base, "seed": seed, "reference": reference}
    spend = default if budget is None else budget
    plan = make(method, spec, fingerprint(folder), spend, known, **options)
    plan.save(to)
    if as_json:
        return _print_json({**plan.to_dict(), "path": str(to), "digest": plan.digest})
    out.print(f"{method} at {plan.budget} of {spec.original_budget} activations per token; wrote {to}")
    out.print("k per layer: " + " ".join(f"{k:g}" for k in plan.layers))
    return None


@app.command()
def eval(
    model: Model,
    plans: Annotated[list[Path] | None, typer.Option("--plan", help="A plan to measure; repeat for several.")] = None,
    to: Annotated[Path, typer.Option("--records", help="Records file to append to.")] = Path("records.jsonl"),
    text: Text = "mini-test",
    windows: Annotated[int, typer.Option(min=1, help="Windows of text.")] = 32,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per batch; Alloc-T's result depends on it.")] = 8,
    items: Annotated[int, typer.Option(min=0, help="Items per task, pinned; 0 for perplexity alone.")] = 100,
    task: Annotated[list[str] | None, typer.Option(help="An lm-eval task; repeat. Default: the embedded ones.")] = None,
    task_batch: Annotated[int, typer.Option(min=1, help="Requests per batch in lm-eval.")] = 64,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the quality of plans (and always of the unchanged model): perplexity, and tasks through lm-eval.

    What the records file holds already is not measured again.
    Example: [bold]allocmoe eval mini-olmoe --plan plan.json --items 50[/bold]
    """
    from allocmoe.evaluate.quality import evaluate
    from allocmoe.evaluate.tasks import TaskSuite
    from allocmoe.evaluate.text import windows as cut
    from allocmoe.methods import allocate as make
    from allocmoe.plan import Plan

    _check_writable(to)
    engine = _engine(model, dtype, device)
    wanted = [make("original", engine.spec, engine.fingerprint, engine.spec.original_budget)]
    wanted += [Plan.load(path) for path in plans or []]
    for plan in wanted:
        plan.check_model(engine.spec, engine.fingerprint)
    held_out = cut(engine.tokenizer, text, windows, window)
    suite = TaskSuite(engine, task, task_batch) if items else None
    found = evaluate(
        engine, wanted, held_out, to, text_batch=batch, suite=suite, items=items, seed=seed, progress=not as_json
    )  # fmt: skip
    if as_json:
        rows = [{"method": r.method, "budget": r.budget, "spent": r.spent["per_token"], **r.metrics} for r in found]
        return _print_json({"records": str(to), "results": rows})
    groups = [name for name in found[0].metrics if name.startswith("group/")]
    table = Table("method", "budget", "spent", "perplexity", *[g.removeprefix("group/") for g in groups])
    for r in found:
        shares = [f"{100 * r.metrics[g]:.1f} %" for g in groups]
        table.add_row(
            str(r.method), str(r.budget), f"{r.spent['per_token']:.1f}", f"{r.metrics['perplexity']:.3f}", *shares
        )
    out.print(table)
    out.print(f"records in {to}")
    return None


@app.command()
def bench(
    shape: Annotated[str, typer.Argument(help="olmoe, qwen or deepseek, or one of them with -small for a CPU.")],
    to: Annotated[Path, typer.Option("--records", help="Records file to append to.")] = Path("records.jsonl"),
    method: Annotated[list[str] | None, typer.Option(help="A method; repeat. Default: all.")] = None,
    budget: Annotated[list[float] | None, typer.Option(help="A budget; repeat. Default: the shape's four.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 8,
    prompt: Annotated[int, typer.Option(help="Tokens of prompt.")] = 32,
    decode: Annotated[int, typer.Option(help="Tokens to decode.")] = 128,
    warmups: Annotated[int, typer.Option(help="Untimed rounds.")] = 5,
    runs: Annotated[int, typer.Option(min=2, help="Timed rounds; an interval needs two.")] = 10,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time prefill and decode of a random-weight model of a shape, all methods interleaved in one session.

    Example: [bold]allocmoe bench olmoe-small --decode 16 --warmups 1 --runs 3[/bold]
    """
    from allocmoe import records
    from allocmoe.measure import protocol, shapes
    from allocmoe.stats import log_ratio

    _check_machine(dtype, device)
    _check_writable(to)
    settings = protocol.Protocol(batch, prompt, decode, warmups, runs)
    engine = shapes.build(shape, dtype, device, seed)
    known = protocol.random_profile(engine, seed)
    names, budgets = method or list(METHODS), budget or engine.spec.budgets()
    plans = protocol.all_plans(engine, known, names, budgets, seed=seed)
    missing = protocol.left_out(names, budgets, plans)
    if missing:
        notes.print(f"this shape has no such schedule, left out: {', '.join(missing)}")
    records.resume(to)
    found = protocol.session(engine, plans, settings, seed, progress=not as_json)
    for record in found:
        records.append(to, record)
    base, rows = found[0].samples, []
    for r in found:
        phases = {p: log_ratio(base[f"{p}_s"], r.samples[f"{p}_s"]) for p in ("prefill", "decode")}
        rows.append((r, phases))
    if as_json:
        return _print_json({"records": str(to), "results": [
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


@app.command()
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
        return _print_json({**pages.summary(found), "page": str(to)})
    out.print(f"{len(found)} records; wrote {to}")
    return None


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--out", help="Folder for profile, plans, records and page.")] = Path("out/demo"),
    model: Annotated[str, typer.Option(help="An embedded model, or a checkpoint folder.")] = "mini-olmoe",
    shape: Annotated[str, typer.Option(help="Shape whose speed is measured; see bench.")] = "olmoe-small",
    full: Annotated[bool, typer.Option("--full", help="The paper's protocol and all items: about an hour.")] = False,
    items: Annotated[int | None, typer.Option(min=1, help="Items per task, instead of the size's own.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Profile, allocate every method at the four budgets, evaluate, time, and write the page.

    Interrupted, it goes on where it was. Example: [bold]allocmoe demo --out out/demo[/bold]
    """
    from allocmoe import demo as pipeline

    size = pipeline.FULL if full else pipeline.QUICK
    size = replace(size, items=items) if items else size
    found = pipeline.demo(model, to, size, shape=shape, seed=seed, progress=not as_json)
    if as_json:
        return _print_json(found)
    out.print(f"Open {found['page']} in a browser. Records: {found['records']}, plans: {to / 'plans'}")
    return None


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Serve mixture-of-experts models under an expert-activation budget, and know what it costs."""


def main() -> None:
    """Entry point: an expected error is one line on stderr and exit code 2; Ctrl-C is 130."""
    try:
        if app(standalone_mode=False) == INTERRUPTED:  # typer turns Ctrl-C into a returned exit code
            raise KeyboardInterrupt
    except AllocMoEError as error:
        sys.exit(_fail(f"error: {' '.join(str(error).split())}", 2))
    except ModuleNotFoundError as error:
        extra = "report" if error.name in ("plotly", "pandas", "jinja2", "scipy", "statsmodels") else "eval"
        sys.exit(_fail(f"error: this needs {error.name}: pip install 'allocmoe[{extra}]'", 2))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_fail("interrupted: run the same command again to go on", INTERRUPTED))
    except OSError as error:
        sys.exit(_fail(f"error: {error.strerror or error}: {error.filename or ''}", 2))
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # click's usage errors
            message = " ".join(error.format_message().split())
            if not message:  # no verb at all: the help was printed
                sys.exit(int(error.exit_code))
            sys.exit(_fail(f"error: {message}", int(error.exit_code)))
        raise


def _fail(message: str, code: int) -> int:
    notes.print(message, style="red" if code == 2 else None, markup=False, highlight=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
