"""models, profile, allocate: from a model to a plan file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from allocmoe.cli.common import (
    Device,
    Dtype,
    Json,
    Method,
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
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS

if TYPE_CHECKING:
    from allocmoe.profile.sensitivity import Sensitivity


def models(
    model: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder, a name on the hub, or an embedded model."),
    ] = None,
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
        rows = [
            {"model": n, "folder": str(resolve(n)), **s.to_dict(), "budgets": s.budgets()} for n, s in specs.items()
        ]
        return print_json({"models": rows, "families": list(FAMILIES), "methods": list(METHODS)})
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


def profile(
    model: Model,
    to: Annotated[Path, typer.Option("--out", help="The profile to write.")] = Path("profile.json"),
    text: Text = "mini-train",
    windows: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 64,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per batch.")] = 8,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure; repeat. Default: what the methods need. A profile of the same text keeps "
            "what it has."
        ),
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Measure what this method needs; repeat.")] = None,
    naive: Annotated[bool, typer.Option(help="Algorithm 1 as printed, anew: slow, for any model.")] = False,
    decode_batch: Annotated[
        int, typer.Option(min=1, help="Sequences that decode together, for decode and decode_pairs.")
    ] = 8,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure what the methods need to know of a model: how sensitive each layer is (Algorithm 1), thresholds, ...

    Interrupted, it goes on where it was; a profile that is there already gets what it lacks.
    Example: [bold]allocmoe profile mini-olmoe --windows 8 --out profile.json[/bold]
    """
    from allocmoe.data.text import windows as cut
    from allocmoe.methods import for_windows, needs
    from allocmoe.profile.quantities import quantity as known
    from allocmoe.profile.run import kept

    wanted = [*(quantity or []), *needs(method or ([] if quantity else for_windows()))]
    for name in wanted:
        known(name)
    check_writable(to)
    engine = load_engine(model, dtype, device)
    calibration = cut(engine.tokenizer, text, windows, window)
    note_made_up(model, {"--text": text})
    found = kept(
        engine, calibration, batch, to,
        quantities=wanted, naive=naive, seed=seed, progress=not as_json, decode_batch=decode_batch,
    )  # fmt: skip
    if as_json:
        return print_json({**found.to_dict(), "path": str(to)})
    if "perplexity" in found.quantities:
        table = Table("layer", *[f"k={k}" for k in range(1, found.spec.top_k + 1)], title="perplexity S[layer, k]")
        for layer, row in enumerate(found.quantities["perplexity"]):
            table.add_row(str(layer), *[f"{v:.3f}" for v in row])
        out.print(table)
    out.print(f"{', '.join(found.quantities)} on {calibration.ids.numel()} tokens; wrote {to}")
    return None


def allocate(
    model: Model,
    method: Method = "alloc-moe",
    budget: Annotated[
        float | None,
        typer.Option(help="B, activations per token over all MoE layers (default: half), or so much of --unit."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="Of the budget, for alloc-d: activations (as many distinct experts as uniform top-k of so many "
            "touches), distinct (mean distinct experts of a layer and step), or ms (of a decode step)."
        ),
    ] = None,
    cost: Annotated[
        Path | None, typer.Option(help="Records of `allocmoe fit`: what a step takes, for alloc-d.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="A profile of this model, for the methods that need one.")
    ] = None,
    to: Annotated[Path, typer.Option("--out", help="The plan to write.")] = Path("plan.json"),
    normalize: Annotated[str | None, typer.Option(help="Rows of Alloc-L's matrix: raw, ratio or log.")] = None,
    k_base: Annotated[int | None, typer.Option(help="Experts every token keeps under Alloc-T.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Another option of the method, NAME=VALUE; repeat.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Denominator after dropping: original, survivors, or top-6 for the six heaviest.")
    ] = "original",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Spend a budget: write the plan of a method for a model.

    Example: [bold]allocmoe allocate mini-olmoe --method uniform --budget 64 --out plan.json[/bold]
    """
    from allocmoe.methods import allocate as make
    from allocmoe.methods import method as row
    from allocmoe.mini import resolve
    from allocmoe.profile.sensitivity import Sensitivity
    from allocmoe.spec import MoESpec, fingerprint

    if unit not in (None, "activations") and budget is None:
        raise AllocMoEError(f"--unit {unit[:40]} needs a --budget: there is no default but half of the activations")
    folder = resolve(model)
    spec, mark = MoESpec.from_folder(folder), fingerprint(folder)
    known = Sensitivity.load(profile) if profile else None
    default = spec.original_budget if method == "original" else max(spec.layers, spec.original_budget // 2)
    given = {"unit": unit, "normalize": normalize, "k_base": k_base}
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if cost is not None:
        named |= _costs(cost, known, mark, row(method).token_rule)
    named |= _named(option or [])
    if foreign := sorted(set(named) - set(row(method).defaults)):
        raise AllocMoEError(
            f"{method} has no option {', '.join(foreign)[:60]}: expected {', '.join(row(method).defaults) or 'none'}"
        )
    spend = default if budget is None else budget
    plan = make(method, spec, mark, spend, known, reference=reference, **{"seed": seed, **named})
    plan.save(to)
    if as_json:
        return print_json({**plan.to_dict(), "path": str(to), "digest": plan.digest})
    out.print(f"{method} at {plan.budget} of {spec.original_budget} activations per token; wrote {to}")
    if unit not in (None, "activations"):
        out.print(f"asked for {plan.origin['asked']:g} {unit}, expected to take {plan.origin['expected']:g}")
    out.print("k per layer: " + " ".join(f"{k:g}" for k in plan.layers))
    if isinstance(pairs := plan.parameters.get("pairs"), tuple):
        out.print("pairs per layer: " + " ".join(f"{p:g}" for p in pairs))
    return None


def _costs(path: Path, known: Sensitivity | None, mark: str, rule: str) -> dict[str, float]:
    """A fit as options of Alloc-D, for the batch that was profiled and a token rule."""
    from allocmoe import records
    from allocmoe.records import views

    if known is None:
        raise AllocMoEError("--cost needs a --profile: its decode says for how many tokens a step is")
    found = records.load(path)
    fit = views.fitted(found)
    if fit.fingerprint != mark:
        notes.print(f"note: the costs were timed on another model, {fit.model[:60]}", style="yellow", markup=False)
    step, distinct, pairs = views.cost(found, int(known.quantity("decode")["batch"]), rule)
    return {"cost_step": step, "cost_distinct": distinct, "cost_pairs": pairs}


def _named(texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE as name -> value; AllocMoEError for another form."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, sign, _) in zip(texts, pairs, strict=True):
        if not name or not sign:
            raise AllocMoEError(f"--set {text!r} is not NAME=VALUE, like k_base=2")
    return {name.strip(): value.strip() for name, _, value in pairs}
