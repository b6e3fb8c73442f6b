"""Tables of one model's answers: where it is above guessing, and what methods change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.results import values
from allocmoe.evaluate.tasks.table import SPECS
from allocmoe.report.compare import from_original
from allocmoe.report.prose.forms import percent, percents, table
from allocmoe.report.prose.sources import Sources
from allocmoe.report.style import ORIGINAL, name
from allocmoe.stats import Interval
from allocmoe.stats.paired import wilson

ROUNDING = 1e-9
"""Wilson's lower bound of no right answer is 0 but for rounding."""
ABOVE = {True: "yes", False: "not shown", None: "-"}


def guessing(sources: Sources, *files: str) -> str:
    """Every data set that unchanged models were asked: items, score with its interval (Wilson's), what guessing scores,
    and whether the score is shown to be above that. Of a data set that was asked twice the more items count."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for record in (r for file in files for r in sources.records(file)):
        if record.about == "quality" and record.method in (None, ORIGINAL):
            for task, answers in record.samples.get("tasks", {}).items():
                items = np.array(values(answers), dtype=float)
                if len(items) > len(found.get((record.model, task), ())):
                    found[record.model, task] = items
    if not found:
        raise AllocMoEError(f"{', '.join(files) or 'no file'} has no answers of an unchanged model")
    rows = []
    for (model, task), items in found.items():
        score, chance = wilson(items), SPECS[task].chance if task in SPECS else None
        guess = "-" if chance is None else f"{percent(chance)} %"
        above = None if chance is None else score.low > chance + ROUNDING
        rows.append([model, f"`{task}`", str(len(items)), percents(score, True), guess, ABOVE[above]])
    return table(["model", "data set", "items", "score", "guessing", "above"], rows)


def answers(sources: Sources, file: str, model: str) -> str:
    """Mean accuracy of every method at every budget of a model less the unchanged model's, in points, with its interval
    paired by item; bold where a difference is shown."""
    group, budgets = sources.group(file, model), sources.budgets(file, model)
    found = {(r.method, r.budget): r for r in group.records}

    def cell(method: str, budget: int) -> str:
        record = found.get((method, budget))
        change = from_original(group, record) if record else None
        return "-" if change is None else f"**{_points(change)}**" if change.excludes(0) else _points(change)

    rows = [[name(m), *(cell(m, b) for b in budgets)] for m in sources.methods(file, model) if m != ORIGINAL]
    return table([model, *map(str, budgets)], rows)


def _points(value: Interval) -> str:
    low, high = (percent(v, sign=True) for v in (value.low, value.high))
    return f"{percent(value.estimate, sign=True)} ({low} to {high})"


ANSWERS: dict[str, Callable[..., str]] = {"answers": answers, "guessing": guessing}
