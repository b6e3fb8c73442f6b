"""The plans that a reader may choose between: what each costs, what it loses, its file and the line that serves it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocmoe.records import Record
from allocmoe.report import plans
from allocmoe.report.answer import HALF, honesty, pick, touched, wished
from allocmoe.report.compare import from_original
from allocmoe.report.pairs import pairs
from allocmoe.report.rows import QualityRow, SpeedRow
from allocmoe.report.style import MEAN, ORIGINAL, PHASES, TIMES, group_name, name
from allocmoe.report.words import DASH, plain
from allocmoe.stats import UNKNOWN, Interval

if TYPE_CHECKING:
    from allocmoe.report.results import Quality, Speed

    Timed = Sequence[tuple[Speed, Mapping[tuple[str, int], SpeedRow]]]

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Choice:
    """The plans of one quality group.

    Attributes:
        q: the group.
        timed: the speed groups that timed its plans on the same routing shape, with the rows by method and budget.
        about: what a page's script needs of it, as JSON can hold it.
        honest: see `answer.honesty`.
    """

    q: Quality
    timed: Timed
    about: dict[str, Any]
    honest: str

    @property
    def picked(self) -> dict[str, Any] | None:
        """The point of the plan to use at half of the activations."""
        return next((p for p in self.about["points"] if p["key"] == self.about["pick"]), None)


def choices(quality: Sequence[Quality], speed: Sequence[Speed], records: Sequence[Record] = ()) -> list[Choice]:
    """Of each model the quality group with most plans, in the order of the records."""
    largest: dict[str, Quality] = {}
    for q in quality:
        if len(q.rows) > len(largest[q.group.model].rows if q.group.model in largest else ()):
            largest[q.group.model] = q
    return [_choice(q, speed, records) for q in largest.values()]


def _choice(q: Quality, speeds: Sequence[Speed], records: Sequence[Record]) -> Choice:
    timed = [(s, {(a.method, a.budget): b for a, b in joined}) for s in speeds if len(joined := pairs(q, s)) > 1]
    search = wished(q, records)
    best = search.row if search else pick(q)
    points = [_point(q, record, row, timed) for record, row in zip(q.group.records, q.rows, strict=True)]
    if search and search.perplexity:  # chosen on little text: what counts is the text that chose nothing
        tiles, loss = next(p["tiles"] for p in points if p["key"] == _key(search.row)), search.perplexity
        tiles["perplexity"] = [f"{_signed(loss.estimate)} %", _range(loss), "perplexity, at the end"]
    costs = {"activations": "activations per token"}
    if any("distinct" in p["costs"] for p in points):
        costs["distinct"] = "distinct experts per layer and step"
    engines = {}
    for i, (s, _) in enumerate(timed):
        engines[str(i)] = s.group.label
        costs |= {
            f"{phase}:{i}": f"{phase} speed" for phase in PHASES if any(f"{phase}:{i}" in p["costs"] for p in points)
        }
    measures = {"perplexity": "perplexity"} if any("perplexity" in p["losses"] for p in points) else {}
    measures |= {g: f"accuracy, {group_name(g)}" for r in q.rows for g in r.accuracy}
    about = {
        "model": q.group.model, "label": q.group.label, "costs": costs, "engines": engines, "measures": measures,
        "whole": next((r.budget for r in q.rows if r.method == ORIGINAL), None), "points": points,
        "pick": _key(best) if best else "", "where": search.about if search else _where(q, best) if best else "",
    }  # fmt: skip
    return Choice(q, timed, plain(about), honesty(q, timed[0][1] if timed else {}))


def _point(q: Quality, record: Record, row: QualityRow, timed: Timed) -> dict[str, Any]:
    spent = row.spent if math.isfinite(row.spent) else float(row.budget)
    costs: dict[str, Interval] = {"activations": Interval(spent, spent, spent)}
    if q.group.setup.get("passes") == "decode" and math.isfinite(touched(record)):
        costs["distinct"] = Interval(*[touched(record)] * 3)
    for i, (_, rows) in enumerate(timed):
        speed = rows.get((row.method, row.budget))
        known = {f"{phase}:{i}": getattr(speed, phase, UNKNOWN) for phase in PHASES}
        costs |= {key: value for key, value in known.items() if math.isfinite(value.estimate)}
    losses = {"perplexity": Interval(*(100 * (v - 1) for v in row.ratio))} if math.isfinite(row.ratio.estimate) else {}
    losses |= {group: Interval(*(100 * v for v in value)) for group, value in row.accuracy.items()}
    return {
        "key": _key(row), "method": row.method, "name": name(row.method), "budget": row.budget, "share": row.share,
        "costs": costs, "losses": losses, "tiles": dict(_tiles(q, record, row, costs, timed)), "plan": record.plan,
        "file": plans.file_name(record), "document": plans.document(record), "command": plans.command(record),
        "serve": plans.serve(record),
    }  # fmt: skip


def _tiles(
    q: Quality, record: Record, row: QualityRow, costs: Mapping[str, Interval], timed: Timed
) -> Iterator[tuple[str, list[str]]]:
    """Of each thing that a plan costs or buys: value, interval, and what it is."""
    if math.isfinite(row.ratio.estimate):
        loss = Interval(*(100 * (v - 1) for v in row.ratio))
        yield "perplexity", [f"{_signed(loss.estimate)} %", _range(loss), "perplexity"]
    elif math.isfinite(row.perplexity):
        yield "perplexity", [f"{row.perplexity:.4g}", "", "perplexity"]
    if MEAN in row.accuracy:
        lost = Interval(*(100 * v for v in from_original(q.group, record)))
        known = math.isfinite(lost.estimate)
        value = f"{_signed(lost.estimate)} points" if known else f"{100 * row.accuracy[MEAN].estimate:.1f} %"
        yield "accuracy", [value, _range(lost) if known else "", "mean accuracy"]
    elif math.isfinite(row.flips.estimate):
        flips = Interval(*(100 * v for v in row.flips))
        yield "accuracy", [f"{flips.estimate:.1f} %", _range(flips, signed=False), "tokens changed"]
    for key, speedup in costs.items():
        phase, _, place = key.partition(":")
        if phase in PHASES:
            group = timed[int(place)][0].group
            where = f"{phase} on {group.model.split(' (')[0]}" if group.owner else f"{phase} speed"
            yield key, [f"{speedup.estimate:.2f}{TIMES}", f"{speedup.low:.2f} to {speedup.high:.2f}", where]
    if "distinct" in costs:
        whole = next((touched(r) for r in q.group.originals.values()), math.nan)
        yield "distinct", [f"{costs['distinct'].estimate:.1f}", f"of {whole:.1f} per layer", "distinct experts"]
    else:
        yield (
            "activations",
            [f"{row.share:.0%}", f"{costs['activations'].estimate:.4g} per token", "of the activations"],
        )


def _where(q: Quality, row: QualityRow) -> str:
    share = "half" if abs(row.share - HALF) < 0.005 else f"{row.share:.0%}"
    if q.group.setup.get("passes") == "decode":
        return f"With no more distinct experts than uniform touches at {share} of the activations the best method is"
    return f"At {share} of the activations the best method is"


def _range(value: Interval, signed: bool = True) -> str:
    if not math.isfinite(value.low):
        return ""
    return " to ".join(_signed(v) if signed else f"{v:.1f}" for v in (value.low, value.high))


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", MINUS) if math.isfinite(value) else DASH


def _key(row: QualityRow) -> str:
    return f"{row.method}@{row.budget}"
