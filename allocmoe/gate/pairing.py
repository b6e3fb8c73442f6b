"""What of two measurements may be compared, and the evidence it gives for each row of the gate."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.stats import Shift

METRICS = ("perplexity", "accuracy", "activations", "prefill", "decode")
SPEED = ("prefill", "decode")
ORIGINAL = "original"
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)  # what odd samples raise
MACHINE = ("system", "processor", "cores", "threads", "gpu", "cuda", "driver")


class Key(NamedTuple):
    """What a row of the gate is about; `model` ends in "@vllm" where that is the engine."""

    model: str
    method: str
    budget: int
    metric: str

    def __str__(self) -> str:
        return "/".join(map(str, self))

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts by model, then methods as the table of methods lists them, budgets downwards, metrics."""
        known = list(METHODS)
        rank = known.index(self.method) if self.method in known else len(known)
        return self.model, rank, self.method, -self.budget, METRICS.index(self.metric)


@dataclass(frozen=True)
class Evidence:
    """What two measurements say of one row.

    Attributes:
        old, new: point estimates: perplexity, accuracy (0..1), activations per token, speedup over the
            original, or the original's own median milliseconds; NaN where there is none.
        shift: the comparison; None where there is none, `reason` then says why.
        note: what allows the comparison but should be known.
    """

    key: Key
    old: float = math.nan
    new: float = math.nan
    shift: Shift | None = None
    reason: str = ""
    note: str = ""


def label(record: Record) -> str:
    """The model, with the engine unless it is transformers: the two are never compared."""
    engine = record.setup.get("engine", "transformers")
    return record.model if engine == "transformers" else f"{record.model}@{engine}"


def keys(records: Sequence[Record]) -> set[Key]:
    """The rows that records have something to say about."""
    found = set()
    for r in records:
        if r.about not in ("quality", "speed") or not r.method or not r.budget:
            continue
        metrics = {*SPEED} if r.about == "speed" else set()
        metrics |= {"perplexity"} if r.about == "quality" and "perplexity" in r.metrics else set()
        metrics |= {"accuracy"} if r.about == "quality" and r.samples.get("tasks") else set()
        metrics |= {"activations"} if "per_token" in r.spent else set()
        found |= {Key(label(r), r.method, r.budget, metric) for metric in metrics}
    return found


def evidence(key: Key, new: Sequence[Record], old: Sequence[Record], alpha: float, across_machines: bool) -> Evidence:
    """The evidence for a row that both measurements have; a reason instead where they do not pair up."""
    mine, theirs = _about(key, new), _about(key, old)
    values = _value(key, old), _value(key, new)
    try:
        reason, note = _unlike(mine, theirs, across_machines and key.metric not in SPEED)
        if reason:
            return Evidence(key, *values, reason=reason)
        if key.metric in SPEED and key.method == ORIGINAL:
            return Evidence(key, *values)
        if key.metric in SPEED:
            shift = stats.slowdown(_sessions(key, new), _sessions(key, old), alpha)
        else:
            shift = _QUALITY[key.metric](_latest(mine), _latest(theirs), alpha)
    except AllocMoEError as error:
        return Evidence(key, *values, reason=str(error))
    except MALFORMED:
        return Evidence(key, *values, reason="a record lacks the samples to compare, or they are malformed")
    return Evidence(key, *values, shift, note=note)


def alone(key: Key, records: Sequence[Record]) -> float:
    """The point estimate of a row that only one measurement has."""
    return _value(key, records)


def _about(key: Key, records: Sequence[Record]) -> list[Record]:
    """A row's own records. Activations are those of the quality measurement, where there is one."""
    point = [r for r in records if (label(r), r.method, r.budget) == key[:3]]
    of = {about: [r for r in point if r.about == about] for about in ("quality", "speed")}
    if key.metric in SPEED:
        return of["speed"]
    counted = [r for r in of["quality"] if "per_token" in r.spent]
    return (counted or of["speed"]) if key.metric == "activations" else of["quality"]


def _latest(records: Sequence[Record]) -> Record:
    """The last one made, whatever their order in the file."""
    latest = max(r.created for r in records)
    made = [r for r in records if r.created == latest]
    return min(made, key=lambda r: json.dumps([r.metrics, r.samples], sort_keys=True)) if made[1:] else made[0]


def _unlike(new: Sequence[Record], old: Sequence[Record], across_machines: bool) -> tuple[str, str]:
    """Why two lists of records of one row may not be compared, and what to note if they may."""
    if len({r.about for r in (*new, *old)}) > 1:
        return "one was counted while measuring quality, the other while measuring speed", ""
    if len({r.fingerprint for r in (*new, *old)}) > 1:
        return "different weights (another fingerprint)", ""
    for side, name in ((new, "the new file"), (old, "the baseline")):
        if found := _differences([_setup(r) for r in side]):
            return f"{name} holds it under several setups: {found}", ""
        if len({r.plan for r in side}) > 1:
            return f"{name} holds several plans of it", ""
    if found := _differences([_setup(r) for r in (old[0], new[0])]):
        return f"different setup: {found}", ""
    machines = [_machine(r) for r in (*old, *new)]
    if not all("processor" in m and "python" in m for m in machines):
        return "a record does not say on which machine it was measured", ""
    found = _differences(machines)
    if found and not across_machines:
        return f"different machine: {found}", ""
    return "", f"across machines: {found}" if found else ""


def _setup(record: Record) -> dict[str, Any]:
    return {k: v for k, v in record.setup.items() if k != "session"}


def _machine(record: Record) -> dict[str, Any]:
    """What must not differ; allocmoe's own version and commit are what is compared."""
    found = {name: record.environment[name] for name in MACHINE if name in record.environment}
    versions = record.environment.get("versions")
    named = versions.items() if isinstance(versions, dict) else ()
    return found | {name: version for name, version in named if name != "allocmoe"}


def _differences(objects: Sequence[dict[str, Any]]) -> str:
    """The names whose values are not all equal, with the values, in words; empty if none."""
    objects = [one for i, one in enumerate(objects) if i == 0 or one != objects[0]]
    parts = []
    for name in sorted({name for one in objects for name in one}):
        values = list(dict.fromkeys(json.dumps(one.get(name), sort_keys=True) for one in objects))
        if len(values) > 1:
            parts.append(f"{name} " + " against ".join(v[:60] for v in values))
    return ", ".join(parts)


def _value(key: Key, records: Sequence[Record]) -> float:
    """One side's point estimate, see `Evidence`; NaN where it has none."""
    mine = _about(key, records)
    try:
        if key.metric in SPEED and key.method == ORIGINAL:
            rounds = [[float(s) for s in r.samples[f"{key.metric}_s"]] for r in _distinct(mine)]
            return 1e3 * statistics.median(statistics.median(r) for r in rounds)
        if key.metric in SPEED:
            return math.exp(-statistics.fmean(_sessions(key, records)))
        if key.metric == "accuracy":
            tasks = _latest(mine).samples["tasks"]
            return statistics.fmean(float(c) for task in tasks.values() for c in task["correct"])
        one = _latest(mine)
        return float(one.metrics["perplexity"] if key.metric == "perplexity" else one.spent["per_token"])
    except (AllocMoEError, *MALFORMED):
        return math.nan


def _distinct(records: Sequence[Record]) -> list[Record]:
    """One record per session, ordered by session: a record that a file holds twice counts once."""
    sessions: dict[str, list[Record]] = {}
    for record in records:
        sessions.setdefault(str(record.setup.get("session", "")), []).append(record)
    return [_latest(sessions[name]) for name in sorted(sessions)]


def _sessions(key: Key, records: Sequence[Record]) -> list[float]:
    """[sessions] log(method / original) of the sessions that measured both; one cut short is left out."""
    originals = {
        str(r.setup.get("session", "")): r
        for r in _distinct([r for r in records if r.about == "speed" and (label(r), r.method) == (key.model, ORIGINAL)])
    }
    pairs = [(r, originals.get(str(r.setup.get("session", "")))) for r in _distinct(_about(key, records))]
    name = f"{key.metric}_s"
    return [stats.session_median(r.samples[name], o.samples[name]) for r, o in pairs if o is not None]


def _perplexity(new: Record, old: Record, alpha: float) -> Shift:
    if new.samples["window_tokens"] != old.samples["window_tokens"]:
        raise AllocMoEError("the two were measured on different windows")
    return stats.perplexity_rise(new.samples["nll"], old.samples["nll"], new.samples["window_tokens"], alpha)


def _accuracy(new: Record, old: Record, alpha: float) -> Shift:
    mine, theirs = new.samples["tasks"], old.samples["tasks"]
    if set(mine) != set(theirs):
        raise AllocMoEError("the two were measured on different tasks")
    return stats.accuracy_loss(*stats.pooled(mine, theirs, sorted(mine)), alpha)


def _activations(new: Record, old: Record, alpha: float) -> Shift:
    """Counted, not sampled: without an error, and without a test."""
    change = math.log(new.spent["per_token"] / old.spent["per_token"])
    return Shift(change, change, change, math.nan, 0.0, 0.0, math.inf, 1)


_QUALITY = {"perplexity": _perplexity, "accuracy": _accuracy, "activations": _activations}
