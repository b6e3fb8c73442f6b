"""Two engines on the same items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from allocmoe.errors import AllocMoEError, shown
from allocmoe.evaluate.tasks.results import values
from allocmoe.records import Record
from allocmoe.report.prose.forms import percent, table
from allocmoe.report.prose.sources import Sources
from allocmoe.report.style import name


def engines(sources: Sources, file: str) -> str:
    """Every data set that two engines of a file measured under the same plan: its items, those on which they agree, and
    the two means in %. An item that has a score agrees within 0.001."""
    by_plan: dict[Any, dict[str, Record]] = {}
    for record in sources.records(file):
        if record.about == "quality":
            by_plan.setdefault((record.model, record.method, record.plan), {})[record.setup["engine"]] = record
    rows = []
    for (model, method, _), both in by_plan.items():
        if len(both) != 2:
            continue
        (one, first), (other, second) = sorted(both.items())
        for task, answers in first.samples["tasks"].items():
            found = second.samples["tasks"].get(task)
            if found is None or found["ids"] != answers["ids"]:
                raise AllocMoEError(f"{one} and {other} were not asked the same items of {shown(task)}")
            pair = [values(answers), values(found)]
            agree = sum(abs(a - b) <= 1e-3 for a, b in zip(*pair, strict=True))
            rows.append([model, name(str(method)), f"`{task}`", str(len(pair[0])), str(agree), *map(_mean, pair)])
    if not rows:
        raise AllocMoEError(f"{file} has no plan that two engines measured")
    return table(["model", "method", "data set", "items", "agree", f"{one}, %", f"{other}, %"], rows)


def _mean(items: Sequence[float]) -> str:
    return percent(sum(items) / len(items))


AGREEMENT: dict[str, Callable[..., str]] = {"engines": engines}
