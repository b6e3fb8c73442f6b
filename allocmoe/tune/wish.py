"""What a user asks for: a speedup of decode, a limit on the loss, or both."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from allocmoe import stats
from allocmoe.errors import AllocMoEError, shown
from allocmoe.records import Record
from allocmoe.report.rows import attempt, perplexity_ratio
from allocmoe.stats import Interval

LOSSES = {"%": "perplexity", "nats": "kl", "points": "accuracy"}
"""Unit of a limit -> the metric that it limits: a rise of perplexity, a KL divergence, a fall of task accuracy."""

WORDS = {"perplexity": "% of perplexity", "kl": "nats of KL divergence", "accuracy": "points of accuracy"}
"""What a loss is counted in, for people."""


@dataclass(frozen=True)
class Limit:
    """A loss that a plan may have.

    Attributes:
        metric: a value of LOSSES.
        most: in the metric's unit, see WORDS.
    """

    metric: str
    most: float

    def __str__(self) -> str:
        return f"{self.most:g} {WORDS[self.metric]}"

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Of "1%", "0.02 nats" or "1 points"; AllocMoEError for anything else."""
        found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%|[a-z]+)\s*", text)
        try:
            most = float(found[1]) if found else math.nan
        except ValueError:
            most = math.nan
        if not found or found[2] not in LOSSES or not 0 <= most < math.inf:
            raise AllocMoEError(
                f"a loss of {shown(text)} is none: give a rise of perplexity like 1%, a KL divergence like "
                "'0.02 nats', or a fall of task accuracy like '1 points'"
            )
        return cls(LOSSES[found[2]], most)


@dataclass(frozen=True)
class Wish:
    """At least one of a speedup of decode over the unchanged model and a limit on the loss.

    Raises AllocMoEError for none, or a speedup that is no more than 1.
    """

    speedup: float | None = None
    limit: Limit | None = None

    def __post_init__(self) -> None:
        if self.speedup is None and self.limit is None:
            raise AllocMoEError("a wish is needed: --speedup 1.5, --max-loss 1%, or both")
        if self.speedup is not None and not 1 < self.speedup < math.inf:
            raise AllocMoEError(f"a speedup must be above 1, like 1.5, got {self.speedup:g}")

    @property
    def metric(self) -> str:
        """What the loss is counted in."""
        return self.limit.metric if self.limit else "perplexity"

    def __str__(self) -> str:
        parts = [f"{self.speedup:g}x faster"] if self.speedup else []
        return " and ".join([*parts, *([f"at most {self.limit} lost"] if self.limit else [])])


def loss(metric: str, record: Record, original: Record) -> Interval:
    """What a plan loses on the same windows and items as the unchanged model, in the metric's unit, with the paired
    95 % interval; below zero where it gains.

    Raises AllocMoEError if the records do not tell it.
    """
    if metric == "perplexity":
        found, why = perplexity_ratio(record, original)
        moved = Interval(*(100 * (bound - 1) for bound in found))
    elif metric == "kl":
        moved, why = attempt(stats.mean, record.samples.get("kl", []), record.samples.get("window_tokens", []))
    else:
        parts = list(record.details.get("groups", {}).values())
        tasks = (r.samples.get("tasks", {}) for r in (original, record))
        gap, why = attempt(stats.group_difference, *tasks, parts)
        moved = Interval(*(100 * bound for bound in gap))
    if why:
        raise AllocMoEError(f"the loss in {metric} cannot be told: {why}")
    return moved
