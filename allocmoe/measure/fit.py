"""What a decode step costs on this machine: `step + rule + sum_l b D_l + c P_l`, fitted to measured steps.

A step of T tokens touches D distinct experts and keeps P pairs in each MoE layer. OEA (arXiv 2511.02237) fits
`a + b D` per layer on a GPU; on a CPU pairs cost too, and a token rule has work of its own wherever its kernels are
not fused. So one session times plans that move D and P apart, for each T:

- uniform top-k: D and P grow together;
- top-k0 with refill up to K': D by k0, P by K';
- Alloc-T, with refill and without, at some k.

Others, whose layers differ, are timed among them and kept out of the fit: what it says of them is its error.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from allocmoe import records
from allocmoe.allocation import Request
from allocmoe.engines import Engine
from allocmoe.errors import AllocMoEError
from allocmoe.measure.protocol import Protocol, measured, session, setup
from allocmoe.measure.starts import live
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.records.step import PLAIN, StepCost
from allocmoe.routing import token_rule
from allocmoe.spec import MoESpec

DESIGN, HELD_OUT = "design", "held-out"
"""Methods of the plans that are fitted, and of those that are not."""
PRICED = (PLAIN, "refill", "alloc_t", "alloc_t_refill")
"""The token rules that a fit times."""
LIKE = {"threshold": "alloc_t"}
"""Token rules that take no more work than one of them, and are priced as it."""


@dataclass(frozen=True)
class Point:
    """A plan's decode step.

    Attributes:
        tokens: T.
        rule: token rule.
        distinct, pairs: D and P of a step, summed over layers.
        ms: measured, the median over rounds.
        plan: digest.
        held_out: whether it was kept out of the fit.
    """

    tokens: int
    rule: str
    distinct: float
    pairs: float
    ms: float
    plan: str
    held_out: bool = False


def designed(spec: MoESpec, fingerprint: str, tokens: int) -> list[Plan]:
    """Plans that move D and P apart, for steps of T tokens; the unchanged model first.

    A single token's refill is its own base, so it then has none.
    """
    top, make = spec.top_k, _Maker(spec, fingerprint, DESIGN, tokens)
    found = [make("top_k", k) for k in range(top, 0, -1)]
    if tokens > 1:
        for base in _spread(1, top, 4):
            found += [make("refill", base, pairs) for pairs in _spread(base, top, 3)]
    for rule in ["alloc_t"] if tokens == 1 else ["alloc_t", "alloc_t_refill"]:
        found += [make(rule, k) for k in _spread(1, top, 4)]
    return found


def held_out(spec: MoESpec, fingerprint: str, tokens: int, seed: int = 0, each: int = 2) -> list[Plan]:
    """Plans of every rule with layers drawn at random, which the fit does not see."""
    rng, make = random.Random(seed), _Maker(spec, fingerprint, HELD_OUT, tokens)
    rules = [PLAIN, "alloc_t"] if tokens == 1 else PRICED
    found = []
    for rule in rules:
        for _ in range(each):
            most = rng.choice([spec.top_k, 1 + spec.top_k // 2])
            found.append(make(rule, [rng.randint(1, most) for _ in range(spec.layers)]))
    return found


@dataclass(frozen=True)
class _Maker:
    spec: MoESpec
    fingerprint: str
    method: str
    tokens: int

    def __call__(self, rule: str, layers: int | list[int], pairs: int = 0) -> Plan:
        """Layers of one k or of their own; `pairs` K' of a rule that refills, 0 for K."""
        spec, chosen = self.spec, token_rule(rule)
        ks = [float(layers)] * spec.layers if isinstance(layers, int) else [float(k) for k in layers]
        options = {**chosen.options, "pairs": pairs, "refill_tokens": self.tokens}
        request = Request(spec, int(sum(ks)), None, options)
        return Plan(
            self.method, int(sum(ks)), tuple(ks), spec.top_k, rule, self.fingerprint, spec.family, spec.experts,
            chosen.calibrate(request, ks),
        )  # fmt: skip


def _spread(low: int, high: int, most: int) -> list[int]:
    """Up to `most` whole numbers from `low` to `high`, both among them."""
    return sorted({round(x) for x in np.linspace(low, high, min(most, high - low + 1))})


def points(found: Sequence[Record]) -> Iterator[Point]:
    """Speed records of whole sessions as points.

    A round that the machine was slow in was slow for all plans: so times are taken relative to their round's mean
    (geometric, over the plans), and only then is the median over rounds taken.
    """
    sessions: dict[str, list[Record]] = {}
    for record in found:
        sessions.setdefault(str(record.setup["session"]), []).append(record)
    for timed in sessions.values():
        logs = np.log([r.samples["decode_s"] for r in timed])
        own = np.median(logs - logs.mean(axis=0), axis=1) + np.median(logs.mean(axis=0))
        yield from _points(timed, 1e3 * np.exp(own))


def _points(found: Sequence[Record], ms: np.ndarray) -> Iterator[Point]:
    for record, taken in zip(found, ms / [int(r.setup["decode"]) for r in found], strict=True):
        spent, tokens = record.spent["decode"], int(record.setup["batch"])
        yield Point(
            tokens,
            record.details["token_rule"],
            float(sum(spent["distinct_per_layer"])),
            float(sum(spent["per_layer"])) * tokens,
            float(taken),
            str(record.plan),
            record.method == HELD_OUT,
        )


def fitted(known: Sequence[Point]) -> tuple[StepCost, dict[str, tuple[float, float]]]:
    """The model of some points, and 95 % intervals of its numbers by the names of `StepCost.metrics`.

    Least squares of relative errors. D and P cannot make a step shorter: where noise says so they cost nothing. A
    single token's pairs are its distinct experts, so steps of one token give all of the cost to those.

    Raises AllocMoEError for points that do not tell D from P.
    """
    from statsmodels.api import WLS

    used = [p for p in known if not p.held_out]
    sizes = sorted({p.tokens for p in used})
    rules = [r for r in dict.fromkeys(p.rule for p in used) if r != PLAIN]
    names = ["distinct_ms", "pair_ms", *[f"step_ms/{t}" for t in sizes], *[f"rule_ms/{r}" for r in rules]]
    ms = np.array([p.ms for p in used])
    columns = dict(zip(names, np.array([_row(p, sizes, rules) for p in used]).reshape(-1, len(names)).T, strict=True))
    zero = {"pair_ms": 0.0} if sizes == [1] else {}
    left = {name: column for name, column in columns.items() if name not in zero}
    if len(used) <= len(left) or np.linalg.matrix_rank(np.array([*left.values()])) < len(left):
        raise AllocMoEError(f"{len(used)} timed plans do not tell {len(left)} costs apart: time more plans")
    whole = WLS(ms, np.array([*left.values()]).T, 1 / ms**2).fit()
    values = dict(zip(left, whole.params.tolist(), strict=True))
    intervals = {n: (float(low), float(high)) for n, (low, high) in zip(left, whole.conf_int(), strict=True)}
    if negative := {n: 0.0 for n in ("distinct_ms", "pair_ms") if values.get(n, 0.0) < 0}:
        rest = {name: column for name, column in left.items() if name not in negative}
        again = WLS(ms, np.array([*rest.values()]).T, 1 / ms**2).fit()
        values, zero = dict(zip(rest, again.params.tolist(), strict=True)), zero | negative
    return StepCost.from_metrics({**zero, **values}), dict.fromkeys(zero, (0.0, 0.0)) | intervals


def _row(point: Point, sizes: Sequence[int], rules: Sequence[str]) -> list[float]:
    return [
        point.distinct, point.pairs,
        *(float(point.tokens == t) for t in sizes), *(float(point.rule == r) for r in rules),
    ]  # fmt: skip


def errors(cost: StepCost, known: Sequence[Point]) -> np.ndarray:
    """[n] of each point what the model says over what was measured, minus 1."""
    return np.array([cost.of(p.tokens, p.rule, p.distinct, p.pairs) / p.ms - 1 for p in known])


def fit(
    engine: Engine, batches: Sequence[int], protocol: Protocol, path: Path, seed: int = 0, progress: bool = True
) -> Record:
    """Time a designed set of plans at every batch size, and fit the cost of a step.

    Args:
        engine: of the model.
        batches: T; each is one session.
        protocol: of a session; its batch is not looked at.
        path: records file. A session of this machine that it holds is not timed again; others are appended as they are
            made.
        seed, progress: as everywhere.

    Returns the record of the cost (about "cost"), which is not in the file yet.
    """
    timed: list[Record] = []
    for tokens in batches:
        plans = designed(engine.spec, engine.fingerprint, tokens)
        plans += held_out(engine.spec, engine.fingerprint, tokens, seed)
        settings = replace(protocol, batch=tokens)
        found = measured(path, engine, plans, settings, seed)
        if not found:
            found = session(engine, plans, settings, seed, progress)
            records.append(path, *found)
        timed += found
    return as_record(engine, timed, {**setup(engine, protocol, seed), "batch": list(batches)})


def as_record(engine: Engine, timed: Sequence[Record], settings: dict[str, Any]) -> Record:
    """The cost that speed records say, with the intervals, every point and its prediction."""
    known = list(points(timed))
    cost, intervals = fitted(known)
    off = errors(cost, known)
    apart = np.array([p.held_out for p in known])
    far = {"fit_error": off[~apart], "held_out_error": off[apart]}
    return Record(
        about="cost",
        model=engine.name,
        fingerprint=engine.fingerprint,
        method=None,
        budget=None,
        plan=None,
        setup=settings,
        metrics={**cost.metrics(), **{name: float(np.abs(e).max()) for name, e in far.items() if len(e)}},
        details={
            "intervals": {n: list(i) for n, i in intervals.items()},
            "points": [{**vars(p), "predicted_ms": p.ms * (1 + e)} for p, e in zip(known, off.tolist(), strict=True)],
        },
    )


def named(cost: Record) -> dict[str, str]:
    """The numbers of a cost record, in words."""
    fixed = {"distinct_ms": "a distinct expert, in one layer", "pair_ms": "a kept pair, in one layer"}
    words = {"step_ms": "a step of {} tokens, but for that", "rule_ms": "the rule {}, more than top-k"}
    found = {}
    for name in cost.metrics:
        kind, _, which = name.partition("/")
        if which or name in fixed:
            found[name] = fixed.get(name) or words[kind].format(which)
    return found


def start(
    engine: str, model: str, dtype: str, device: str, batches: Sequence[int], protocol: Protocol, path: Path,
    seed: int, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Start an engine and fit its steps, see `fit`: the cost record's document."""
    started = live(engine, model, dtype, device, seed)
    try:
        return fit(started, batches, protocol, path, seed, progress).to_dict()
    finally:
        started.close()
