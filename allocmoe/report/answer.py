"""What a page says first: which plan to use at half of the activations, and where Alloc-MoE does not win."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocmoe.records import Record
from allocmoe.records.views import latest
from allocmoe.report.compare import Comparison
from allocmoe.report.rows import QualityRow, SpeedRow
from allocmoe.report.style import BASELINE, FOCUS, MEAN, ORIGINAL, PHASES, TIMES, name
from allocmoe.report.words import times
from allocmoe.stats import Interval

if TYPE_CHECKING:
    from allocmoe.report.results import Quality, Speed

HALF = 0.5
SPARE = 1.02
"""How much more than its price a plan may take to be chosen: of its budget, or of the distinct experts of uniform."""


def half(rows: Sequence[Any]) -> int:
    """The budget nearest to half of the activations, the larger one of two; 0 without one."""
    among = [r for r in rows if r.method != ORIGINAL and math.isfinite(r.share)]
    return min(among, key=lambda r: (abs(r.share - HALF), -r.budget)).budget if among else 0


def rivals(q: Quality, budget: int) -> list[QualityRow]:
    """The rows at a budget that cost no more: in distinct experts of passes as if decoding, else in activations.

    A rule that prunes spends K activations a token, and one that refills more than its budget: neither is chosen for a
    price that it does not pay.
    """
    paired = [(r, row) for r, row in zip(q.group.records, q.rows, strict=True) if row.budget == budget]
    most = next((touched(r) for r, row in paired if row.method == BASELINE), math.nan)
    by_experts = q.group.setup.get("passes") == "decode" and math.isfinite(most)

    def affordable(record: Record) -> bool:
        return touched(record) <= SPARE * most if by_experts else within(record)

    return [row for record, row in paired if row.method != ORIGINAL and affordable(record)]


def within(record: Record) -> bool:
    """Whether a record spent no more than its budget, or does not say."""
    return record.spent.get("per_token", 0) <= SPARE * (record.budget or 0)


def touched(record: Record) -> float:
    """Mean distinct experts per layer and pass; NaN where they were not counted."""
    counted = record.spent.get("distinct_per_layer")
    return math.fsum(counted) / len(counted) if counted else math.nan


def pick(q: Quality) -> QualityRow | None:
    """The plan to use near half of the activations: lowest perplexity, else highest accuracy; None without either."""
    budgets = {r.budget: abs(r.share - HALF) for r in q.rows if math.isfinite(r.share)}
    for budget in sorted(budgets, key=lambda b: (budgets[b], -b)):
        for cost in (_perplexity, _error):
            known = [r for r in rivals(q, budget) if math.isfinite(cost(r))]
            if known:
                return min(known, key=cost)
    return None


@dataclass(frozen=True)
class Wished:
    """What a search found for a wish.

    Attributes:
        row: of the plan.
        about: the wish, in words.
        perplexity: by how much it rose on the text that judged, in %; None where the wish is of another loss.
    """

    row: QualityRow
    about: str
    perplexity: Interval | None


def wished(q: Quality, records: Sequence[Record]) -> Wished | None:
    """What the latest search found for a wish; None where no search found a plan of the group."""
    rows = {r.plan: row for r, row in zip(q.group.records, q.rows, strict=True) if r.plan}
    searches = [r for r in records if r.about == "tune" and r.fingerprint == q.group.fingerprint and r.plan in rows]
    if not searches:
        return None
    last = latest(searches)
    document = last.details["document"]
    nearest = "" if document["met"] else "not to be had; nearest: "
    judged = Interval(*document["measured"]["loss"]) if document["metric"] == "perplexity" else None
    return Wished(rows[last.plan or ""], f"{document['asked']}: {nearest}", judged)


def honesty(q: Quality, timed: Mapping[tuple[str, int], SpeedRow]) -> str:
    """Where Alloc-MoE does not win, and else that it does; empty if it was not measured beside another method.

    Args:
        q: the quality group.
        timed: (method, budget) -> the speed of that plan on the same routing shape.
    """
    budgets = sorted({r.budget for r in q.rows if r.method == FOCUS}, reverse=True)
    if not any(r.method != FOCUS for budget in budgets for r in rivals(q, budget)):
        return ""
    parts = [
        *_beaten(q, budgets, "Lower perplexity", _perplexity, lambda c: c.perplexity),
        *_beaten(q, budgets, "Higher accuracy", _error, lambda c: c.accuracy),
        *_faster(timed),
    ]
    if not parts:
        return f"No method is ahead of {name(FOCUS)} at a budget where both were measured."
    return f"{name(FOCUS)} does not win everywhere. " + " ".join(parts)


def _beaten(
    q: Quality,
    budgets: Sequence[int],
    what: str,
    cost: Callable[[QualityRow], float],
    verdict: Callable[[Comparison], str],
) -> Iterator[str]:
    ahead: dict[str, list[int]] = {}
    shown = measured = 0
    for budget in budgets:
        among = [r for r in rivals(q, budget) if math.isfinite(cost(r))]
        own = next((r for r in among if r.method == FOCUS), None)
        if own is None:
            continue
        measured += 1
        best = min(among, key=cost)
        if cost(best) < cost(own):
            ahead.setdefault(best.method, []).append(budget)
            shown += any(verdict(c) == "worse" for c in q.verdicts if (c.other, c.budget) == (best.method, budget))
    if ahead:
        count = sum(map(len, ahead.values()))
        which = "; ".join(f"{name(m)} at {', '.join(map(str, at))}" for m, at in ahead.items())
        clear = {0: "no difference shown", count: "shown"}.get(shown, f"shown at {shown}")
        yield f"{what} at {count} of {measured} budgets: {which} ({clear})."


def _faster(timed: Mapping[tuple[str, int], SpeedRow]) -> Iterator[str]:
    for (method, budget), own in timed.items():
        if method != FOCUS or not math.isfinite(own.decode.estimate):
            continue
        others = {m: r.decode for (m, b), r in timed.items() if b == budget and m not in (FOCUS, ORIGINAL)}
        known = {m: v for m, v in others.items() if math.isfinite(v.estimate)}
        best = max(known, key=lambda m: known[m].estimate, default="")
        if best and known[best].estimate > own.decode.estimate:
            ours, theirs = (f"{v.estimate:.2f}" for v in (own.decode, known[best]))
            yield f"Faster decode at {budget}: {name(best)}, {theirs}{TIMES} against {ours}{TIMES}."


def speed(s: Speed) -> str:
    """What there is to say of a shape whose quality was not measured."""
    budget = half(s.rows)
    among = [r for r in s.rows if r.budget == budget and math.isfinite(r.decode.estimate)]
    if not among:
        return ""
    row = max(among, key=lambda r: r.decode.estimate)
    said = ", ".join(f"{p} {times(getattr(row, p))}" for p in PHASES if math.isfinite(getattr(row, p).estimate))
    where = f"{name(row.method)} at {budget}, {row.share:.0%} of the activations"
    return f"Fastest at about half: {where}: {said}. Its quality was not measured."


def _perplexity(row: QualityRow) -> float:
    return row.perplexity


def _error(row: QualityRow) -> float:
    return -row.accuracy[MEAN].estimate if MEAN in row.accuracy else math.nan
