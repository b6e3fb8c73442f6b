"""From evidence to verdicts and an exit code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from allocmoe import metrics, stats
from allocmoe.errors import AllocMoEError
from allocmoe.gate.pairing import Evidence, Key, alone, evidence, keys
from allocmoe.metrics import METRICS, Metric
from allocmoe.records import Record
from allocmoe.stats import ALPHA, Shift

PASS, REGRESSED, UNMEASURED, NEW = "pass", "regressed", "could not measure", "new"


def read_margins(said: Sequence[str]) -> dict[str, float]:
    """Margins as people write them, METRIC=NUMBER. Raises AllocMoEError for what is not."""
    found = {}
    for one in said:
        metric, _, number = one.partition("=")
        try:
            found[metric] = float(number)
        except ValueError:
            raise AllocMoEError(f"no margin {one[:80]!r}: expected METRIC=NUMBER, for example perplexity=1") from None
    return found


@dataclass(frozen=True)
class Row:
    """One model, method, budget and metric, compared. What is not known is NaN.

    Attributes:
        old, new: point estimates, see `pairing.Evidence`.
        change: above zero if for the worse; in the metric's unit.
        low, high: its one-sided bounds, each at the gate's alpha.
        p, p_holm: one-sided, that nothing got worse; the latter adjusted for all rows of the gate.
        margin: what a worsening may be and still pass, in the unit of `change`.
        detectable: the smallest worsening this measurement would have reported with 90 % probability.
        verdict: "pass", "regressed", "could not measure", "new" (no baseline, not gated), or "" (for
            information: the original's own milliseconds, since a machine drifts between two measurements).
        reason: of a verdict that is not "pass".
    """

    key: Key
    old: float
    new: float
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    margin: float = math.nan
    detectable: float = math.nan
    verdict: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        return str(self.key)


@dataclass(frozen=True)
class Gate:
    """All rows, in a fixed order, with notes on the whole; `mixed` says so if the new file is of several commits."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    alpha: float
    mixed: str = ""

    @property
    def code(self) -> int:
        """0: every row that has a baseline passed; 1: one regressed; 2: one, or everything, could not be measured."""
        verdicts = {row.verdict for row in self.rows}
        if REGRESSED in verdicts:
            return 1
        return 2 if UNMEASURED in verdicts or PASS not in verdicts else 0


def compare(
    new: Sequence[Record],
    old: Sequence[Record],
    margins: Mapping[str, float] | None = None,
    floors: Mapping[str, float] | None = None,
    across_machines: bool = False,
    alpha: float = ALPHA,
) -> Gate:
    """Judge a measurement against the baseline's.

    Args:
        new: of one commit.
        old: the baseline.
        margins: metric -> a number of its unit, above zero; others keep their own.
        floors: row name -> limit, see `floors`.
        across_machines: compare quality, never speed, though the machine differs.
        alpha: one-sided, of each bound and, by Holm's method, of all tests together.

    A row passes if the upper bound of its worsening lies below the margin (non-inferiority). If that
    is not shown and it is significantly worse, it regressed; if neither is shown, it could not be
    measured. Activations are counted, so they are compared as they are.

    Raises AllocMoEError for an unknown metric or a margin that is not above zero.
    """
    limits = {name: metric.margin for name, metric in METRICS.items()}
    for name, margin in (margins or {}).items():
        limits[metrics.get(name).name] = margin
        if not 0 < margin < math.inf:
            raise AllocMoEError(f"no margin {name}={margin:g}: expected a number above zero")
    mine, theirs = keys(new), keys(old)
    mixed = _mixed("the new file", new)
    fault = mixed or _mixed("the baseline", old)
    both = [evidence(key, new, old, alpha, across_machines) for key in sorted(mine & theirs, key=attrgetter("order"))]
    notes = [*_notes(new, old), *dict.fromkeys(e.note for e in both if e.note)]
    if fault:
        both = [replace(e, shift=None, reason=fault, new=math.nan if mixed else e.new) for e in both]
    rows = _judged(both, limits, alpha)
    rows += [Row(key, alone(key, old), math.nan, verdict=UNMEASURED, reason="not measured") for key in theirs - mine]
    rows += [
        Row(key, math.nan, alone(key, new), verdict=UNMEASURED if mixed else NEW, reason=mixed or "no baseline")
        for key in mine - theirs
    ]
    rows = _floored(rows, {} if mixed else floors or {})
    return Gate(tuple(sorted(rows, key=attrgetter("key.order"))), tuple(notes), alpha, mixed)


def _judged(found: Sequence[Evidence], margins: Mapping[str, float], alpha: float) -> list[Row]:
    found = [_finite(e) for e in found]
    tested = [e.key for e in found if e.shift and math.isfinite(e.shift.p)]
    pvalues = [e.shift.p for e in found if e.shift and math.isfinite(e.shift.p)]
    adjusted = dict(zip(tested, stats.holm(pvalues), strict=True)) if tested else {}
    return [_judge(e, margins[e.key.metric], adjusted.get(e.key, math.nan), len(tested), alpha) for e in found]


def _finite(found: Evidence) -> Evidence:
    """The evidence, without a shift that says nothing: samples may be beyond what can be computed with."""
    shift = found.shift
    if shift is None or not metrics.get(found.key.metric).counted:
        return found
    if all(map(math.isfinite, (shift.estimate, shift.low, shift.high, shift.p, shift.error))):
        return found
    return replace(found, shift=None, reason="its samples are too large to compute with, or too far apart")


def _judge(found: Evidence, margin: float, p_holm: float, tests: int, alpha: float) -> Row:
    metric, shift = metrics.get(found.key.metric), found.shift
    row = Row(found.key, found.old, found.new, margin=margin)
    if shift is None:
        return replace(row, verdict=UNMEASURED if found.reason else "", reason=found.reason)
    limit, exact = metric.limit(margin), not metric.counted
    least = limit if exact else shift.detectable(limit, alpha / tests)
    change, low, high, detectable = map(metric.change, (shift.estimate, shift.low, shift.high, least))
    row = replace(
        row, change=change, low=low, high=high, p=shift.p, p_holm=p_holm, detectable=detectable
    )  # fmt: skip
    if shift.high < limit or (exact and shift.estimate <= limit):
        return replace(row, verdict=PASS)
    if exact or p_holm <= alpha:
        return replace(row, verdict=REGRESSED, reason=f"worse by {change:.3g} {metric.unit}")
    return replace(row, verdict=UNMEASURED, reason=_noisy(metric, shift, margin, limit, alpha))


def _noisy(metric: Metric, shift: Shift, margin: float, limit: float, alpha: float) -> str:
    enough = shift.needed(limit, alpha)
    said = f"too noisy to tell a change of {margin:g} {metric.unit} from none"
    if enough > shift.count:
        return f"{said} with {shift.count} {metric.counted}: about {enough} would do"
    return (
        f"the change lies too near {margin:g} {metric.unit} to judge with {shift.count} {metric.counted}: measure more"
    )


def _floored(rows: Iterable[Row], floors: Mapping[str, float]) -> list[Row]:
    """The rows, with what is beyond its floor regressed and what has an unchecked floor not measured."""
    found = []
    for row in rows:
        limit = floors.get(row.name)
        if limit is None:
            found.append(row)
        elif row.verdict == "" or not math.isfinite(row.new):
            reason = row.reason or "there is no such figure"
            found.append(replace(row, verdict=UNMEASURED, reason=f"its floor of {limit:g} is unchecked: {reason}"))
        elif why := metrics.get(row.key.metric).broken(row.new, limit):
            found.append(replace(row, verdict=REGRESSED, reason="; ".join(filter(None, (why, row.reason)))))
        else:
            found.append(row)
    known = {row.name for row in found}
    for name in floors.keys() - known:
        model, method, budget, metric = name.rsplit("/", 3)
        reason = f"its floor of {floors[name]:g} is unchecked: not measured"
        found.append(
            Row(Key(model, method, int(budget), metric), math.nan, math.nan, verdict=UNMEASURED, reason=reason)
        )
    return found


def _commits(records: Sequence[Record]) -> dict[str, bool]:
    """Commit -> dirty, of the records the gate reads, in order of date; "" where it is not known."""
    found = [r.environment.get("commit") or {} for r in records if r.about in ("quality", "speed")]
    found.sort(key=lambda c: tuple(str(c.get(name, "")) for name in ("date", "hash", "dirty", "changes")))
    names: dict[str, bool] = {}
    for c in found:
        changes = f"+{str(c.get('changes', ''))[:8]}" if c.get("dirty") else ""
        names[str(c.get("hash", ""))[:10] + changes] = bool(c.get("dirty"))
    return names


def _mixed(side: str, found: Sequence[Record]) -> str:
    commits = _commits(found)
    names = ", ".join(name or "an unknown one" for name in commits)
    return f"{side} mixes commits: {names} (+: with changes)" if len(commits) > 1 else ""


def _notes(new: Sequence[Record], old: Sequence[Record]) -> list[str]:
    notes = []
    for side, records in (("new", new), ("baseline", old)):
        for name, dirty in _commits(records).items():
            notes.append(f"{side}: commit {name or 'not known'}{', with uncommitted changes' if dirty else ''}")
        notes += [f"{side}: measuring failed with {r.details.get('error')}" for r in records if r.about == "failure"]
    if new and {r.key for r in new} and sorted(map(_identity, new)) == sorted(map(_identity, old)):
        notes.append("the two files hold the same measurement: nothing new was compared")
    return notes


def _identity(record: Record) -> str:
    return f"{record.key} {record.created} {sorted(record.metrics.items())}"
