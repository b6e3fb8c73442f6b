"""What a data set is, to lm-eval and to a record: its tasks, the number that is read, its group, guessing."""

from __future__ import annotations

from dataclasses import dataclass

from allocmoe.errors import AllocMoEError

GROUPS = ("nlu", "reasoning", "math")
OTHER = "other"  # of tasks that stand in no table


@dataclass(frozen=True)
class TaskSpec:
    """One data set: one entry of a record, one term of its group's mean.

    Attributes:
        name: of the data set; of an lm-eval task, group or tag too, unless `tasks` says otherwise.
        group: one of GROUPS, or OTHER.
        metric: lm-eval's name of the number of an item. None: the first of `KNOWN_METRICS` that the task reports.
        filters: lm-eval's names of the filter whose rows are read ("none" where a task has none): the one of them
            that a task has. Empty: the task's first.
        shots: examples before the question. None: what the task's own definition says.
        cap: tokens that an answer may have (lm-eval's max_gen_toks). None: no generation, or the task's own.
        chance: the score of guessing, 0..1. None: unknown.
        binary: an item is right or wrong; False: it has a score in 0..1. None: as its values are.
        tasks: lm-eval's names of what makes the data set up, where it is not one name.
        members: how many lm-eval tasks that must be; a folder that knows only a part of them is another data set.
            None: any.
    """

    name: str
    group: str = OTHER
    metric: str | None = None
    filters: tuple[str, ...] = ()
    shots: int | None = None
    cap: int | None = None
    chance: float | None = None
    binary: bool | None = None
    tasks: tuple[str, ...] = ()
    members: int | None = 1

    def __post_init__(self) -> None:
        if self.group not in (*GROUPS, OTHER):
            raise AllocMoEError(f"{self.name}: unknown group {self.group!r}, expected one of {', '.join(GROUPS)}")
        if self.chance is not None and not 0 <= self.chance < 1:
            raise AllocMoEError(f"{self.name}: guessing scores {self.chance}, expected 0 or more and less than 1")

    @property
    def asked(self) -> tuple[str, ...]:
        """The names to ask lm-eval for."""
        return self.tasks or (self.name,)


def spread(total: int, count: int, seed: int) -> list[int]:
    """`count` places (all, if there are fewer) spread evenly over `total`, from an offset that the seed decides."""
    count = min(count, total)
    return sorted({(i * total // count + seed) % total for i in range(count)})
