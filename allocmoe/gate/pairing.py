"""What of two measurements may be compared, and the evidence it gives for each row of the gate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from allocmoe import metrics
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.metrics import MALFORMED, METRICS, Measured
from allocmoe.records import Record
from allocmoe.records.views import latest, machine, setup
from allocmoe.stats import Shift

ORIGINAL = "original"


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
        return self.model, rank, self.method, -self.budget, metrics.order(self.metric)


@dataclass(frozen=True)
class Evidence:
    """What two measurements say of one row.

    Attributes:
        old, new: the metric's figures (`Metric.figure`), or the original's own (`Metric.own`); NaN where there is
            none.
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
    return {
        Key(label(r), r.method, r.budget, name)
        for r in records
        for name, metric in METRICS.items()
        if r.method and r.budget and metric.told(r)
    }


def evidence(key: Key, new: Sequence[Record], old: Sequence[Record], alpha: float, across_machines: bool) -> Evidence:
    """The evidence for a row that both measurements have; a reason instead where they do not pair up."""
    metric = metrics.get(key.metric)
    mine, theirs = _about(key, new), _about(key, old)
    values = _value(key, old), _value(key, new)
    try:
        reason, note = _unlike(mine, theirs, across_machines and metric.about[0] == "quality")
        if reason:
            return Evidence(key, *values, reason=reason)
        if key.method == ORIGINAL and metric.own:
            return Evidence(key, *values)
        shift = metric.compare(_measured(key, new), _measured(key, old), alpha)
    except AllocMoEError as error:
        return Evidence(key, *values, reason=str(error))
    except MALFORMED:
        return Evidence(key, *values, reason="a record lacks the samples to compare, or they are malformed")
    return Evidence(key, *values, shift, note=note)


def alone(key: Key, records: Sequence[Record]) -> float:
    """The point estimate of a row that only one measurement has."""
    return _value(key, records)


def _about(key: Key, records: Sequence[Record]) -> list[Record]:
    """A row's own records, of the first kind that tells its metric."""
    metric = metrics.get(key.metric)
    point = [r for r in records if (label(r), r.method, r.budget) == key[:3] and metric.told(r)]
    kinds = [[r for r in point if r.about == about] for about in metric.about]
    return next(filter(None, kinds), [])


def _latest(records: Sequence[Record]) -> Record:
    """The last one made, whatever their order in the file: it must not decide a verdict."""
    ordered = sorted(records, key=lambda r: json.dumps([r.metrics, r.samples], sort_keys=True), reverse=True)
    return latest(ordered if records[1:] else records)


def _unlike(new: Sequence[Record], old: Sequence[Record], across_machines: bool) -> tuple[str, str]:
    """Why two lists of records of one row may not be compared, and what to note if they may."""
    if len({r.about for r in (*new, *old)}) > 1:
        return "one was counted while measuring quality, the other while measuring speed", ""
    if len({r.fingerprint for r in (*new, *old)}) > 1:
        return "different weights (another fingerprint)", ""
    for side, name in ((new, "the new file"), (old, "the baseline")):
        if found := _differences([setup(r) for r in side]):
            return f"{name} holds it under several setups: {found}", ""
        if len({r.plan for r in side}) > 1:
            return f"{name} holds several plans of it", ""
    if found := _differences([setup(r) for r in (old[0], new[0])]):
        return f"different setup: {found}", ""
    machines = [machine(r) for r in (*old, *new)]
    if not all("processor" in m and "python version" in m for m in machines):
        return "a record does not say on which machine it was measured", ""
    found = _differences(machines)
    if found and not across_machines:
        return f"different machine: {found}", ""
    return "", f"across machines: {found}" if found else ""


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
    """One side's figure, see `Evidence`; NaN where it has none."""
    metric = metrics.get(key.metric)
    try:
        if key.method == ORIGINAL and metric.own:
            return metric.own[0](_distinct(_about(key, records)))
        return metric.figure(metric.value(_measured(key, records)))
    except (AllocMoEError, *MALFORMED):
        return math.nan


def _distinct(records: Sequence[Record]) -> list[Record]:
    """One record per session, ordered by session: a record that a file holds twice counts once."""
    sessions: dict[str, list[Record]] = {}
    for record in records:
        sessions.setdefault(_session(record), []).append(record)
    return [_latest(sessions[name]) for name in sorted(sessions)]


def _session(record: Record) -> str:
    return str(record.setup.get("session", ""))


def _measured(key: Key, records: Sequence[Record]) -> list[Measured]:
    """What a row's metric is about: the last record made, or, of a relative metric, those of all sessions that
    measured the original too; one cut short is left out."""
    mine = _about(key, records)
    if not metrics.get(key.metric).relative:
        return [Measured(_latest(mine))]
    kind = mine[0].about
    originals = [r for r in records if r.about == kind and (label(r), r.method) == (key.model, ORIGINAL)]
    known = {_session(r): r for r in _distinct(originals)}
    return [Measured(r, known[_session(r)]) for r in _distinct(mine) if _session(r) in known]
