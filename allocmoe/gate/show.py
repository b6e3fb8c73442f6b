"""The gate in words: a table for a terminal, the same in Markdown and as JSON, and one line per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from allocmoe import metrics
from allocmoe.gate.pairing import ORIGINAL
from allocmoe.gate.verdict import PASS, REGRESSED, UNMEASURED, Gate, Row

HEADER = ("row", "old", "new", "change", "interval", "p", "detects", "verdict")
OUTCOMES = {0: "pass", 1: "regressed", 2: "could not measure"}


def text(gate: Gate) -> str:
    """The whole gate: a table in columns, the reasons, the notes, and the outcome as the last line."""
    lines = [HEADER, *map(cells, gate.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, "", *_remarks(gate), f"gate: {outcome(gate)}"])


def markdown(gate: Gate) -> str:
    """The same for a job's summary page."""
    lines = [HEADER, tuple("---" for _ in HEADER), *map(cells, gate.rows)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(
        [f"### Gate: {outcome(gate)}", "", *table, "", *(f"- {line}" for line in _remarks(gate)), "", ""]
    )  # fmt: skip


def document(gate: Gate) -> dict[str, Any]:
    """The same as one JSON-able object; what is not known is null."""
    rows = []
    for row in gate.rows:
        fields = {k: v for k, v in asdict(row).items() if k != "key"}
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        rows.append({"row": row.name, **row.key._asdict(), "unit": _unit(row), **known})
    return {"code": gate.code, "outcome": outcome(gate), "alpha": gate.alpha, "notes": list(gate.notes), "rows": rows}


def line(row: Row) -> str:
    """A row in one line, for people."""
    _, old, new, change, interval, p, _, verdict = cells(row)
    told = f"{old or '-'} -> {new or '-'}"
    if change:
        told += f", change {_signed(row, row.change)} {_unit(row)} {interval}".rstrip() + (f", p {p}" if p else "")
    return f"{row.name}: {verdict or 'not gated'}: {told}" + (f" ({row.reason})" if row.reason else "")


def outcome(gate: Gate) -> str:
    """The verdict on the whole, with how many rows have which."""
    counts = {v: sum(row.verdict == v for row in gate.rows) for v in (PASS, REGRESSED, UNMEASURED)}
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n) or "no row was compared"
    return f"{OUTCOMES[gate.code]} ({told})"


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells, as in HEADER; `~` for a change that is not shown to be one, in either direction."""
    old, new = (_value(row, value) for value in (row.old, row.new))
    if not math.isfinite(row.change):
        return row.name, old, new, "", "", "", "", row.verdict
    shown = row.verdict == REGRESSED or row.low > 0 or row.high < 0
    sampled = math.isfinite(row.p)
    return (
        row.name,
        old,
        new,
        f"{_signed(row, row.change)} {_unit(row)}" if shown else "~",
        f"[{_signed(row, row.low)}, {_signed(row, row.high)}]" if sampled else "",
        ("<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}") if sampled else "",
        f"{row.detectable:.{_digits(row)}f} {_unit(row)}" if sampled else "",
        row.verdict,
    )


def _value(row: Row, value: float) -> str:
    metric = metrics.get(row.key.metric)
    shown = metric.own[1] if metric.own and row.key.method == ORIGINAL else metric.shown
    return shown(value) if math.isfinite(value) else ""


def _unit(row: Row) -> str:
    return metrics.get(row.key.metric).unit


def _digits(row: Row) -> int:
    return metrics.get(row.key.metric).digits


def _signed(row: Row, value: float) -> str:
    return f"{value:+.{_digits(row)}f}"


def _remarks(gate: Gate) -> list[str]:
    """Reasons, each with its rows, then notes, then how to read the columns."""
    reasons: dict[str, list[str]] = {}
    for row in gate.rows:
        if row.reason:
            reasons.setdefault(f"{row.verdict}: {row.reason}", []).append(row.name)
    told = [f"{reason}: {_names(names)}" for reason, names in reasons.items()]
    legend = (
        f"change: above zero is worse, ~ not shown; interval: one-sided bounds at {gate.alpha:g}; p: that nothing got "
        "worse, adjusted for all rows (Holm); detects: the least worsening that is reported 9 times in 10"
    )
    return [*told, *gate.notes, legend]


def _names(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
