"""The plans that could win: what they are, what they lose on some text, and how fast they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allocmoe.allocation.check import UnreachableError
from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.quality import evaluate
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.measure.fit import LIKE, PRICED
from allocmoe.methods import METHODS, allocate, method
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record
from allocmoe.records.step import StepCost
from allocmoe.stats import Interval
from allocmoe.tune.wish import Wish, loss

TRIED = (
    "alloc-moe-refill", "alloc-c-refill", "one-pass-refill", "alloc-d", "alloc-moe", "alloc-c", "oea", "uniform",
)  # fmt: skip
"""Methods in the order in which they are tried: where time runs short, the last are left out. See docs/tune.md."""
NEAR = ("alloc-c-refill", "one-pass-refill", "alloc-c")
"""Those that stay nearest to the unchanged model, tried first where the loss is not one of perplexity."""
PAIRS = "decode_pairs"
"""The quantity by which Alloc-D can choose K' too."""
EVERYWHERE = 1 << 30
"""Of `refill_tokens`: prompts are refilled too, or their tokens would be left with the base's few experts."""


@dataclass(frozen=True)
class Tried:
    """A plan that was measured on some text.

    Attributes:
        plan, record, original: what, its quality, and the unchanged model's on the same text.
        loss: in the wish's unit.
        ms: of a decode step, predicted.
        speedup: over the unchanged model, predicted.
    """

    plan: Plan
    record: Record
    original: Record
    loss: Interval
    ms: float
    speedup: float


def methods_for(wish: Wish, asked: Sequence[str], batch: int) -> list[str]:
    """The methods to try, in their order.

    Rules for small passes are left out for one sequence at a time, where they change nothing, and where the loss is
    counted in points of accuracy: lm-eval's tasks run as prefill, and their loss would not be that of decode.

    Raises AllocMoEError for an unknown method, one whose token rule no fit times, and if none is left.
    """
    usual = TRIED if wish.metric == "perplexity" else sorted(TRIED, key=lambda name: name not in NEAR)
    named = [name for name in asked or usual if method(name) and name != "original"]
    for name in named:
        if METHODS[name].token_rule not in (known := (*PRICED, *LIKE)):
            raise AllocMoEError(f"no fit times the token rule of {name}: expected methods of {', '.join(known)}")
    large = wish.metric == "accuracy" or batch == 1
    if not (left := [n for n in named if not (large and METHODS[n].small_passes)]):
        why = "in tasks, which run as prefill" if batch > 1 else "for one sequence at a time"
        raise AllocMoEError(f"none of {', '.join(named) or 'no methods'} can be judged {why}: name others")
    return left


def predicted(cost: StepCost, record: Record, rule: str, batch: int) -> float:
    """ms of a decode step of `batch` sequences, from what a quality record spent as if decoding."""
    spent = record.spent
    return cost.of(batch, LIKE.get(rule, rule), sum(spent["distinct_per_layer"]), batch * sum(spent["per_layer"]))


@dataclass(frozen=True)
class Field:
    """Everything that candidates are made and measured with.

    Attributes:
        engine, profile: of the model whose quality counts.
        cost: of a decode step on this machine.
        batch: sequences that decode together.
        wish: what is asked for.
        records: file that quality records are appended to, and looked up in.
        suite, items: tasks, for a loss in points of accuracy.
        seed, progress: as everywhere.
    """

    engine: HFEngine
    profile: Sensitivity | None
    cost: StepCost
    batch: int
    wish: Wish
    records: Path
    suite: TaskSuite | None = None
    items: int = 0
    seed: int = 0
    progress: bool = True

    def plan(self, name: str, budget: int) -> Plan | None:
        """The plan of a method at B; None where it has none."""
        pairs = self.cost.pair if self.profile and PAIRS in self.profile.quantities else 0.0
        prices: Mapping[str, Any] = {"cost_distinct": self.cost.distinct or 1.0, "cost_pairs": pairs}
        options: Mapping[str, Any] = {"refill_tokens": EVERYWHERE, "batch": self.batch, "seed": self.seed, **prices}
        known = {o: v for o, v in options.items() if o in METHODS[name].defaults}
        try:
            return allocate(name, self.engine.spec, self.engine.fingerprint, budget, self.profile, **known)
        except UnreachableError:
            return None

    def tried(self, plans: Sequence[Plan], text: Windows) -> list[Tried]:
        """Each plan measured on a text, without the unchanged model's."""
        spec = self.engine.spec
        whole = allocate("original", spec, self.engine.fingerprint, spec.original_budget)
        first, *rest = evaluate(
            self.engine, [whole, *plans], text, self.records, text_batch=self.batch, suite=self.suite,
            items=self.items, seed=self.seed, passes="decode", progress=self.progress,
        )  # fmt: skip
        base = predicted(self.cost, first, whole.token_rule, self.batch)
        found = []
        for plan, record in zip(plans, rest, strict=True):
            ms = predicted(self.cost, record, plan.token_rule, self.batch)
            found.append(Tried(plan, record, first, loss(self.wish.metric, record, first), ms, base / ms))
        return found


def grid(layers: int, top_k: int, steps: int = 6) -> list[int]:
    """Whole budgets B from almost all of L K down to L."""
    whole = layers * top_k
    return sorted({round(b) for b in np.linspace(whole - max(1, whole // 8), layers, steps)}, reverse=True)


def refined(curve: Sequence[Tried], wish: Wish, aim: float | None, layers: int) -> int | None:
    """The budget at which a method's measured curve grants the wish, between those that were measured.

    Args:
        curve: of one method.
        wish: its limit counts only if there is no `aim`.
        aim: speedup to reach, None to be as fast as the limit allows.
        layers: L, the least budget.

    Returns the largest B that is fast enough, or the smallest that loses little enough; the end of the curve that
    comes nearest where none is. None for an empty curve.
    """
    if not curve:
        return None
    ordered = sorted(curve, key=lambda t: t.plan.budget)
    budgets = np.array([t.plan.budget for t in ordered], dtype=float)
    fine = np.arange(layers, budgets[-1] + 1)
    if aim is not None:
        fast = np.minimum.accumulate([t.speedup for t in ordered])  # more experts are never faster
        enough = fine[np.interp(fine, budgets, fast) >= aim]
        return int(enough[-1]) if len(enough) else layers
    assert wish.limit is not None
    lost = np.minimum.accumulate([t.loss.estimate for t in ordered])  # nor worse
    little = fine[np.interp(fine, budgets, lost) <= wish.limit.most]
    return int(little[0]) if len(little) else int(budgets[-1])


def nearest(curve: Sequence[Tried], budget: int) -> Plan:
    """The measured plan of a method whose budget comes nearest, the smaller one of two; `curve` is not empty."""
    return min(curve, key=lambda t: (abs(t.plan.budget - budget), t.plan.budget)).plan


def ranked(among: Sequence[Tried], wish: Wish, aim: float | None) -> list[Tried]:
    """The best first: of those fast enough the one that loses least, or of those that lose little enough the fastest;
    behind them what comes nearest."""
    if aim is not None:
        return sorted(among, key=lambda t: (t.speedup < aim, t.loss.estimate if t.speedup >= aim else -t.speedup))
    assert wish.limit is not None
    most = wish.limit.most
    return sorted(
        among, key=lambda t: (t.loss.estimate > most, -t.speedup if t.loss.estimate <= most else t.loss.estimate)
    )
