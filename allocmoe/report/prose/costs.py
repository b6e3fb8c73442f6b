"""Tables of what a decode step costs, and of what was gained by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from allocmoe.allocation.published import predicted_speedup
from allocmoe.errors import AllocMoEError, shown
from allocmoe.metrics import METRICS
from allocmoe.records import Record, views
from allocmoe.records.step import StepCost
from allocmoe.report.groups import Group
from allocmoe.report.prose.forms import percent, ratio, table
from allocmoe.report.prose.sources import Sources, at
from allocmoe.report.rows import attempt, perplexity_ratio
from allocmoe.report.style import BASELINE, ORIGINAL, TIMES, name
from allocmoe.stats import Interval, log_ratio


def costs(sources: Sources, file: str) -> str:
    """What a step costs on each fitted model, in ms: an expert, a pair, the rest, each with its 95 % interval, the work
    of refilling; and how far the furthest prediction of a plan is off that was kept out of the fit."""
    rows = []
    for record in (r for r in sources.records(file) if r.about == "cost"):
        (tokens,) = record.setup["batch"]
        cells = [_cost(record, n) for n in ("distinct_ms", "pair_ms", f"step_ms/{tokens}", "rule_ms/refill")]
        off = f"{percent(record.metrics['held_out_error'])} %"
        rows.append([record.model.split(" (")[0], str(tokens), *cells, off])
    head = [
        "timed on",
        "sequences",
        "an expert, ms",
        "a pair, ms",
        "the rest of a step, ms",
        "to refill, ms",
        "furthest off",
    ]
    return table(head, rows)


def faster(sources: Sources, speeds: str, quality: str, fitted: str, batch: str, among: str) -> str:
    """Decode speedups of plans that lose no more than uniform does at half of the activations, on each timed shape: of
    each method the plan with the fewest distinct experts. Beside what was measured stands what the fitted cost and a
    published one say of the same counts."""
    rows = []
    for group in sources.groups(speeds, "speed"):
        if str(group.setup["batch"]) != batch or "prompts" in group.setup:
            continue
        cost = _fitted(sources, fitted, group.model)
        owner = sources.group(quality, group.owner["model"])
        known = {r.plan: r for r in owner.records}
        whole = next(s for s in group.records if s.method == ORIGINAL)
        session = [s for s in group.records if s.setup["session"] == whole.setup["session"]]
        pairs = [(s, known[p]) for s in session if (p := _own(s)) in known]
        (base,) = [(s, q) for s, q in pairs if s.method == BASELINE and at(s, "1/2")]
        original = next(q for q in owner.records if q.method == ORIGINAL)
        for method in among.split(","):
            little = [(s, q) for s, q in pairs if s.method == method and _loss(q, original) <= _loss(base[1], original)]
            if little:
                speed, lost = min(little, key=lambda pair: _experts(pair[0]))
                rows.append(_row(group, cost, (speed, lost), base[0], whole, original))
    head = [
        "timed on", "method", "budget", "loss", "distinct experts", "decode speedup", "over uniform's",
        "fit says", "H100, predicted",
    ]  # fmt: skip
    return table(head, rows)


def _row(
    group: Group, cost: StepCost, pair: tuple[Record, Record], base: Record, whole: Record, original: Record
) -> list[str]:
    speed, quality = pair
    tokens = int(speed.setup["batch"])
    fast = _speedup(whole, speed)
    over = _speedup(base, speed)
    says = _ms(cost, whole, tokens) / _ms(cost, speed, tokens)
    h100 = predicted_speedup(*(r.spent["decode"]["distinct_per_layer"] for r in (whole, speed)))
    return [
        group.model.split(" (")[0], name(speed.method or ""), str(speed.budget),
        f"{percent(_loss(quality, original) - 1, sign=True)} %", f"{_experts(speed):.1f}", ratio(fast, True),
        "1" if speed is base else ratio(over, True), f"{says:.2f}{TIMES}", f"{h100:.2f}{TIMES}",
    ]  # fmt: skip


def decoded(sources: Sources, file: str, names: str) -> str:
    """Decode speedups over the unchanged model in every session of a file that timed the models' own plans: batch, kind
    of prompts, and per method and share of the activations the speedup and the distinct experts."""
    rows = []
    for group in sources.groups(file, "speed"):
        whole = next(r for r in group.records if r.method == ORIGINAL)
        read = group.setup.get("prompts", {}).get("text", "random tokens")
        head = [group.model.split(" (")[0], str(group.setup["batch"]), str(read), f"{_experts(whole):.1f}"]
        cells = []
        for method in names.split(","):
            found = next((r for r in group.records if r.method == method and at(r, "1/2")), None)
            cells.append(f"{ratio(_speedup(whole, found), True)} at {_experts(found):.1f}" if found else "-")
        rows.append([*head, *cells])
    return table(["timed on", "sequences", "prompts", "unchanged", *map(name, names.split(","))], rows)


ENDS = {"speedup": "fast enough", "loss": "near enough"}
"""Both ends of the front that a search finds."""


def wishes(sources: Sources, file: str) -> str:
    """What searches were asked for, and both ends of the front: what was promised, and what was measured."""
    rows = []
    for record in (r for r in sources.records(file) if r.about == "tune"):
        document = record.details["document"]
        unit = METRICS[document["metric"]].unit
        for end in document["ends"]:
            told, measured = end["promised"], end["measured"]
            fast, lost = Interval(*measured["speedup"]), Interval(*measured["loss"])
            rows.append([
                record.model, document["asked"], ENDS[end["wish"]], "yes" if end["met"] else "no",
                name(end["method"]), str(end["budget"]),
                f"{told['speedup']:.2f}{TIMES}", ratio(fast, True),
                f"{told['loss']:.2f} {unit}", f"{lost.estimate:.2f} {unit} ({lost.low:.2f} to {lost.high:.2f})",
            ])  # fmt: skip
    head = [
        "model", "wish", "the best that is", "both", "plan", "budget", "speedup promised", "measured", "loss promised",
        "measured",
    ]  # fmt: skip
    return table(head, rows)


def _cost(record: Record, which: str) -> str:
    if which not in record.metrics:
        return "-"
    low, high = record.details["intervals"][which]
    digits = 4 if record.metrics[which] < 1 else 1
    return f"{record.metrics[which]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _fitted(sources: Sources, file: str, model: str) -> StepCost:
    found = [r for r in sources.records(file) if r.about == "cost" and r.model == model]
    if not found:
        raise AllocMoEError(f"{file} has no cost of {shown(model)}: measure it with `allocmoe fit`")
    return StepCost.from_metrics(views.latest(found).metrics)


def _own(speed: Record) -> str | None:
    """Digest of the embedded model's plan that was timed."""
    moved: Any = speed.details.get("transplanted")
    return str(moved["plan"]) if moved else None


def _loss(record: Record, original: Record) -> float:
    return perplexity_ratio(record, original)[0].estimate


def _experts(speed: Record) -> float:
    return fmean(speed.spent["decode"]["distinct_per_layer"])


def _ms(cost: StepCost, speed: Record, tokens: int) -> float:
    spent = speed.spent["decode"]
    pairs = tokens * math.fsum(spent["per_layer"])
    return cost.of(tokens, speed.details["token_rule"], math.fsum(spent["distinct_per_layer"]), pairs)


def _speedup(before: Record, after: Record) -> Interval:
    samples: Sequence[Any] = [r.samples["decode_s"] for r in (before, after)]
    return attempt(log_ratio, *samples)[0]


COSTS: dict[str, Callable[..., str]] = {"costs": costs, "decoded": decoded, "faster": faster, "wishes": wishes}
