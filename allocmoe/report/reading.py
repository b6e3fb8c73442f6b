"""The reading at the top of a page: a few sentences per group, computed from its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from allocmoe.report.compare import Comparison, comparisons
from allocmoe.report.equal import LEADER, Setting, settings
from allocmoe.report.results import Quality, Speed
from allocmoe.report.rows import methods
from allocmoe.report.style import BASELINE, FOCUS, MEAN, ORIGINAL, PHASES, name
from allocmoe.report.words import number, times
from allocmoe.stats import Interval


def quality(q: Quality) -> list[str]:
    """What a quality group says near half of the activations: perplexity, mean accuracy, and what is shown."""
    focus, row = _headline(q.rows)
    base = next((r for r in q.rows if r.method == BASELINE and r.budget == row.budget and r is not row), None)
    whole = next((r for r in q.rows if r.method == ORIGINAL), None)
    text = f"{q.group.label}: at {row.share:.0%} of the original's activations ({row.budget} per token), {focus}'s "
    if math.isfinite(row.ratio.estimate):
        text += f"perplexity is {times(row.ratio)} the original's" + (
            f", uniform's {times(base.ratio)}" if base else ""
        )
    else:
        text += f"perplexity is {number(row.perplexity)}"
    scores = {r.method: r.accuracy[MEAN].estimate for r in (row, base, whole) if r and MEAN in r.accuracy}
    if scores:
        text += "; mean accuracy: " + ", ".join(f"{name(m)} {v:.1%}" for m, v in scores.items())
    own = q.verdicts if row.method == FOCUS else comparisons(q.group, row.method)
    lines = [text + ".", *_stated(focus, [c for c in own if c.budget == row.budget])]
    lines += _stated("uniform", comparisons(q.group, BASELINE, [row.budget])) if base else []
    return lines + [line for setting in settings(q.group) if setting.budget == row.budget for line in _equal(setting)]


def _equal(setting: Setting) -> Iterator[str]:
    """What is to be said where methods were measured as if decoding."""
    known = setting.compared(LEADER)
    if known:
        text = f"At the {setting.distinct:.1f} distinct experts per layer and step that uniform touches there, "
        yield f"{text}{name(LEADER)}'s perplexity is {times(setting.ratio(LEADER))} the original's; {_parts(known)}."


def speed(s: Speed) -> list[str]:
    """What a speed group says near half of the activations; whose plans were timed, where they are another model's."""
    focus, row = _headline(s.rows)
    text = []
    for phase in PHASES:
        value: Interval = getattr(row, phase)
        if math.isfinite(value.estimate):
            text.append(f"{phase} {times(value)}" + ("" if value.excludes(1) else ", no difference shown"))
    said = f"at {row.share:.0%} of the original's activations, {focus}'s speed over the original's: " + "; ".join(text)
    whose = f", with the plans of {s.group.owner['model']}" if s.group.owner else ""
    return [f"{s.group.label}{whose}: {said}."] if text else []


def _stated(who: str, verdicts: Sequence[Comparison]) -> Iterator[str]:
    for what, value in (("perplexity", "ratio"), ("accuracy", "difference")):
        known = [c for c in verdicts if c.other != ORIGINAL and math.isfinite(getattr(c, value).estimate)]
        if known:
            said = _parts(known, what)
            yield f"{who[0].upper()}{who[1:]}'s {what} against the other methods at this budget: {said}."


def _parts(known: Sequence[Comparison], what: str = "perplexity") -> str:
    parts = {"better": "better than", "worse": "worse than", "~": "no difference shown from"}
    said = {v: [name(c.other) for c in known if getattr(c, what) == v] for v in parts}
    return "; ".join(f"{parts[v]} {', '.join(names)}" for v, names in said.items() if names)


def _headline(rows: Sequence[Any]) -> tuple[str, Any]:
    among = methods(rows)
    method = FOCUS if FOCUS in among else next((m for m in reversed(among) if m != ORIGINAL), ORIGINAL)
    row = min((r for r in rows if r.method == method), key=lambda r: (abs(r.share - 0.5), -r.budget))
    return name(method), row
