"""The ends of the front: chosen plans, with what was promised and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocmoe import records, report
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.stats import Interval
from allocmoe.tune.candidates import Tried
from allocmoe.tune.timing import Timed
from allocmoe.tune.wish import Wish

SHORT, OVER = 0.03, 0.25
"""What an interval may excuse, relative: a wide one, of a busy machine or of little text, grants nothing by itself."""


@dataclass(frozen=True)
class End:
    """A chosen plan: one end of the front.

    Attributes:
        about: "speedup" (loses least of those fast enough) or "loss" (fastest of those that lose little enough).
        tried: the plan, with what was promised.
        speedup, prefill: measured, over the unchanged model's, with 95 % intervals over the paired rounds.
        loss: measured on text that chose nothing, in the wish's unit.
        met: whether it grants the whole wish, within the intervals.
        records: quality of the unchanged model and of the plan, then speed of both.
    """

    about: str
    tried: Tried
    speedup: Interval
    prefill: Interval
    loss: Interval
    met: bool
    records: tuple[Record, ...] = ()


def granted(wish: Wish, fast: Interval, lost: Interval) -> bool:
    """Whether a measured speedup and loss are what was wished for, within their intervals."""
    enough = wish.speedup is None or at_least(fast, wish.speedup)
    return enough and (wish.limit is None or at_most(lost, wish.limit.most)) and fast.estimate > 1


def order(about: str, wish: Wish) -> Callable[[End], tuple[bool, float]]:
    """A key that sorts ends by how good they are, as measured.

    At the end "speedup" those that are fast enough come first, by their loss, then the others by their speed; at the
    end "loss" those that lose little enough, by their speed, then the others by their loss.
    """

    def key(end: End) -> tuple[bool, float]:
        if about == "speedup":
            reached = at_least(end.speedup, wish.speedup or 0.0)
            return not reached, end.loss.estimate if reached else -end.speedup.estimate
        little = at_most(end.loss, wish.limit.most if wish.limit else 0.0)
        return not little, -end.speedup.estimate if little else end.loss.estimate

    return key


def told(end: End) -> dict[str, Any]:
    """For the document."""
    plan: Plan = end.tried.plan
    return {
        "method": plan.method,
        "budget": plan.budget,
        "promised": {"speedup": end.tried.speedup, "loss": end.tried.loss.estimate},
        "measured": {"speedup": list(end.speedup), "loss": list(end.loss), "prefill_speedup": list(end.prefill)},
    }


def written(
    out: Path, wish: Wish, batch: int, timed: Timed, measured: Sequence[Sequence[End]],
    curves: Mapping[str, Sequence[Tried]], off: float,
) -> dict[str, Any]:  # fmt: skip
    """Write plans, the record of the search and the page; the document that `tune` returns.

    Args:
        out: folder.
        wish, batch, timed: what was asked for, and where it was timed.
        measured: per end of the front its finalists, the best first.
        curves: of each method the first look.
        off: the furthest that the fitted cost was off, of the plans kept out of the fit, relative.
    """
    ends = [finalists[0] for finalists in measured]
    best = next((e for e in ends if e.met), ends[0])
    rows = []
    for end in ends:
        path = out / ("plan.json" if end is best else f"plan-{end.about}.json")
        end.tried.plan.save(path)
        rows.append({"wish": end.about, "met": end.met, **told(end), "plan": str(path)})
    document = {
        "met": best.met, "asked": str(wish), "batch": batch, "metric": wish.metric,
        "prediction_error": off,
        **{k: v for k, v in rows[ends.index(best)].items() if k not in ("wish", "met")}, "ends": rows,
    }  # fmt: skip
    plan, quality = best.tried.plan, best.records[1]
    record = Record(
        about="tune",
        model=quality.model,
        fingerprint=plan.fingerprint,
        method=plan.method,
        budget=plan.budget,
        plan=plan.digest,
        setup={"wish": str(wish), "batch": batch, **timed.described()},
        metrics={"speedup": best.speedup.estimate, "loss": best.loss.estimate},
        details={
            "document": document,
            "front": [
                {"method": t.plan.method, "budget": t.plan.budget, "speedup": t.speedup, "loss": list(t.loss)}
                for curve in curves.values()
                for t in curve
            ],
            "speedup": wish.speedup,
            "most": wish.limit.most if wish.limit else None,
        },
    )
    records.append(out / "records.jsonl", record)
    final = [r for finalists in measured for end in finalists for r in end.records]
    page = out / "report.html"
    report.write(
        [*{id(r): r for r in final}.values(), record], page, f"{quality.model}: {wish}", ("front", "distinct", "speed")
    )
    return {**document, "records": str(out / "records.jsonl"), "report": str(page)}


def at_least(measured: Interval, goal: float) -> bool:
    """Whether a speedup reaches a goal, or the goal lies within its interval and it is no more than SHORT below."""
    return measured.estimate >= goal or (measured.high >= goal and measured.estimate >= goal * (1 - SHORT))


def at_most(measured: Interval, limit: float) -> bool:
    """Whether a loss is no more than a limit, or the limit lies within its interval and it is no more than OVER
    above."""
    return measured.estimate <= limit or (measured.low <= limit and measured.estimate <= limit * (1 + OVER))
