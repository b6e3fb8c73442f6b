"""Mean accuracy of tasks: the mean over groups of tasks of the mean over each group's tasks.

So a task counts as much as the others of its group, and a group as much as the others, however many items they have.
"""

from __future__ import annotations

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.metrics.metric import Measured, Measurements, Metric, Tracked, below
from allocmoe.records import Record
from allocmoe.records.views import groups
from allocmoe.stats import Shift

MEAN = "group/mean"


def has(record: Record) -> bool:
    return bool(record.samples.get("tasks")) or MEAN in record.metrics


def value(measured: Measurements) -> float:
    """In 0..1, from the items where they are kept, else as the record says."""
    record = measured[-1].record
    if record.samples.get("tasks"):
        return stats.group_mean(record.samples["tasks"], groups(record))
    return float(record.metrics[MEAN])


def compare(new: Measurements, old: Measurements, alpha: float) -> Shift:
    """What was lost on the same items, see `stats.group_loss`."""
    mine, theirs = new[-1].record, old[-1].record
    if set(mine.samples["tasks"]) != set(theirs.samples["tasks"]):
        raise AllocMoEError("the two were measured on different tasks")
    if groups(mine) != groups(theirs):
        raise AllocMoEError("the two have their tasks in different groups")
    return stats.group_loss(mine.samples["tasks"], theirs.samples["tasks"], groups(mine), alpha)


def shown(figure: float) -> str:
    return f"{100 * figure:.2f} %"


def tracked(one: Measured) -> list[float]:
    return [100 * (1 - value([one]))]


METRIC = Metric(
    name="accuracy",
    title="mean accuracy",
    about=("quality",),
    unit="points",
    lower=False,
    noise=False,
    margin=1.0,
    minimum=0.01,
    counted="items",
    value=value,
    compare=compare,
    broken=below,
    shown=shown,
    has=has,
    tracked=(Tracked("task_loss", "points below 100 %", tracked),),
    tick=".1%",
)
