"""Accuracies of several tasks as one figure: the mean over groups of the mean over each group's tasks.

An item of a task is either right or not (`"correct"`: 0 or 1), or scored within 0..1 (`"score"`, such as the
probability given to the true answers). Whatever is compared is compared item by item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from allocmoe.errors import AllocMoEError
from allocmoe.stats.paired import CONFIDENCE, RESAMPLES, Interval, _binary, wilson
from allocmoe.stats.shift import ALPHA, Shift, tango_variance
from allocmoe.stats.sign_flip import tail

Tasks = Mapping[str, Mapping[str, Sequence[Any]]]
"""Per-item results as a quality record keeps them: task -> {"ids": [...], "correct": [0 or 1, ...]}, or with
"score": [0..1, ...] beside or instead of "correct"."""
Groups = Sequence[Sequence[str]]
"""Of each group, its tasks."""
TINY = 1e-12
"""A move whose own variance is larger than its square, if it has any."""


class Part(NamedTuple):
    """A task's paired results: its weight in the mean, how much more right `a` is than `b` at each item, and whether
    its items are right or not, instead of scored."""

    weight: float
    gap: np.ndarray
    binary: bool


def group_mean(tasks: Tasks, groups: Groups) -> float:
    """Mean over groups of the mean over each group's tasks of the task's mean result, in 0..1.

    Raises AllocMoEError for an empty group or a task without results.
    """
    return math.fsum(weight * float(_results(tasks, name)[0].mean()) for name, weight in weights(groups))


def group_accuracy(tasks: Tasks, groups: Groups, confidence: float = CONFIDENCE) -> Interval:
    """`group_mean` with its confidence interval.

    The interval combines the tasks' Wilson intervals by MOVER (Zou and Donner 2008): each bound's
    distance is the root of the summed squared distances of the parts, so a task at 0 or 1 still
    counts as uncertain, which a bootstrap would miss. Scores have Wilson's interval of their mean, which is
    too wide rather than too narrow: of all values within 0..1 with one mean, 0 and 1 vary most.

    Raises AllocMoEError for an empty group or a task without results.
    """
    parts = [(weight, wilson(_results(tasks, name)[0], confidence)) for name, weight in weights(groups)]
    estimate = math.fsum(w * part.estimate for w, part in parts)
    below = math.hypot(*(w * (part.estimate - part.low) for w, part in parts))
    above = math.hypot(*(w * (part.high - part.estimate) for w, part in parts))
    return Interval(estimate, estimate - below, estimate + above)


def group_difference(
    a: Tasks,
    b: Tasks,
    groups: Groups,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Difference a - b of the group means, with a paired bootstrap stratified by task.

    Args:
        a, b: results of two methods on the same items.
        groups: lists of task names; the mean over groups of the mean over tasks is compared.
        confidence, resamples, seed: of the bootstrap's percentile interval.

    Drawing n items of a task with replacement is one draw of the multinomial distribution of their
    distinct differences (-1, 0 and 1 where items are right or not); that is exact, and quick.

    Raises AllocMoEError where the items differ or are missing.
    """
    rng = np.random.default_rng(seed)
    estimate, drawn = 0.0, np.zeros(resamples)
    for weight, gap, binary in paired(a, b, groups):
        kinds = np.array([-1.0, 0.0, 1.0]) if binary else np.unique(gap)
        counts = (gap[:, None] == kinds).sum(axis=0)
        sample = rng.multinomial(len(gap), counts / len(gap), size=resamples)
        drawn += weight * (sample @ kinds) / len(gap)
        estimate += weight * float(gap.mean())
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def group_test(a: Tasks, b: Tasks, groups: Groups) -> float:
    """Two-sided p, that a and b are equally good at every item: `group_difference` under flipped signs.

    With one task it is the exact test of McNemar. Raises AllocMoEError where the items differ or are missing.
    """
    sizes, total = _weighed(paired(a, b, groups))
    return min(1.0, 2 * tail(sizes, abs(total))) if total else 1.0


def group_loss(new: Tasks, old: Tasks, groups: Groups, alpha: float = ALPHA) -> Shift:
    """How much of the group mean was lost between two measurements of the same items, in 0..1.

    Args:
        new, old: results on the same items.
        groups: lists of task names; the mean over groups of the mean over tasks is compared.
        alpha: of each bound.

    p is that of the sign-flip test: where two results of an item differ, either may have been first. The
    bounds are score bounds, where every task is supposed to have moved by the same amount further than it
    seems to: each task's variance is Tango's under that supposition, so there is a width even where no
    item differs. Of scores, the variance is that of the paired t test, and a move brings its own, as one of
    Tango's does, as far as items do not differ. With one task of right and wrong items, bounds and p are
    those of `accuracy_loss`.

    Raises AllocMoEError where the items differ or are missing.
    """
    from scipy import stats

    parts = paired(old, new, groups)
    z = float(stats.norm.ppf(1 - alpha))
    sizes, total = _weighed(parts)
    tasks = [_task_variance(part, alpha, z) for part in parts]
    estimate = math.fsum(w * float(gap.mean()) for w, gap, _ in parts)
    error = math.sqrt(math.fsum(w * w * float((gap**2).mean()) / len(gap) for w, gap, _ in parts))
    # variance that a loss of 1, the same in every task, brings by making items differ
    shares = [1.0 if binary else float((gap == 0).mean()) for _, gap, binary in parts]
    grain = math.fsum(w * w * share / len(gap) for (w, gap, _), share in zip(parts, shares, strict=True))
    low, high = (_bound(tasks, side, z) for side in (-1, 1))
    count = sum(len(gap) for _, gap, _ in parts)
    return Shift(estimate, max(-1.0, estimate - low), min(1.0, estimate + high), tail(sizes, total), error, z,
                 math.inf, count, grain)  # fmt: skip


def paired(a: Tasks, b: Tasks, groups: Groups) -> list[Part]:
    """The differences a - b at each item of each task. Raises AllocMoEError where items differ or are missing."""
    return [Part(weight, *_same_items(a, b, name)) for name, weight in weights(groups)]


def weights(groups: Groups) -> list[tuple[str, float]]:
    """Every task with its weight in the mean over groups of the mean over tasks.

    Raises AllocMoEError for an empty group, or no group.
    """
    if not groups or not all(groups):
        raise AllocMoEError("a group mean needs at least one task in every group")
    return [(name, 1 / len(groups) / len(group)) for group in groups for name in group]


def _weighed(parts: Sequence[Part]) -> tuple[np.ndarray, float]:
    """[items that differ], each one's part of the estimate without its sign; and the estimate."""
    signed = np.concatenate([(w / len(gap)) * gap[gap != 0] for w, gap, _ in parts])
    return np.abs(signed), math.fsum(signed.tolist())


class _Variance(NamedTuple):
    """Of a task's part in the mean: `fixed`, and what grows with a move."""

    weight: float
    items: int
    lost: int
    won: int
    fixed: float
    grown: float
    binary: bool

    def at(self, move: float) -> float:
        """The variance where the true loss is `move` more than the one that was seen."""
        square = self.weight**2 / self.items
        if not self.binary:
            return square * (self.fixed + self.grown * abs(move))
        loss = min(1.0, max(-1.0, (self.lost - self.won) / self.items + move))
        return square * tango_variance(self.lost, self.won, self.items, loss)


def _task_variance(part: Part, alpha: float, z: float) -> _Variance:
    from scipy import stats

    weight, gap, binary = part
    n, lost, won = len(gap), int((gap > 0).sum()), int((gap < 0).sum())
    fixed = 0.0
    if not binary and n > 1:
        widened = float(stats.t.ppf(1 - alpha, n - 1)) / z
        fixed = widened**2 * float(gap.var(ddof=1))
    return _Variance(weight, n, lost, won, fixed, 1.0 if n < 2 else float((gap == 0).mean()), binary)


def _bound(tasks: Sequence[_Variance], side: int, z: float) -> float:
    """How far the bound lies on one side, where the move is `z` of its own standard errors.

    A move beyond the ends of the range is not possible, so it ends there; 2 is further than any.
    """
    from scipy import optimize

    def short(move: float) -> float:
        return move - z * math.sqrt(max(0.0, math.fsum(task.at(side * move) for task in tasks)))

    if short(2.0) <= 0:
        return 2.0
    return float(optimize.bisect(short, TINY, 2.0)) if short(TINY) < 0 else 0.0


def _results(tasks: Tasks, name: str) -> tuple[np.ndarray, bool]:
    """[items] of a task, and whether they are 0 or 1, instead of scores."""
    if name not in tasks:
        raise AllocMoEError(f"there are no per-item results of {name[:80]}")
    task = tasks[name]
    if "score" not in task:
        return _binary(task["correct"]), True
    values = np.asarray(task["score"], dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise AllocMoEError("an accuracy needs at least one item")
    if not ((values >= 0) & (values <= 1)).all():
        raise AllocMoEError(f"a score of {name[:80]} is not within 0..1")
    return values, False


def _same_items(a: Tasks, b: Tasks, name: str) -> tuple[np.ndarray, bool]:
    (x, first), (y, second) = _results(a, name), _results(b, name)
    ids = list(a[name]["ids"])
    if ids != list(b[name]["ids"]):
        raise AllocMoEError(f"the two were measured on different items of {name[:80]}")
    if not len(x) == len(y) == len(ids):
        raise AllocMoEError(f"{name[:80]} has {len(ids)} items, but {len(x)} and {len(y)} results")
    if first != second:
        raise AllocMoEError(f"of {name[:80]}, one has scores and the other right or wrong: measure both anew")
    return x - y, first
