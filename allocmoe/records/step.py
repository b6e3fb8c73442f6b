"""The cost of a decode step as a model: what `fit` found, and what it says of other plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from allocmoe.errors import AllocMoEError, shown

PLAIN = "top_k"
"""The token rule whose own work is part of the step; every other one's is what it takes more."""
KINDS = ("step_ms/", "rule_ms/")
"""Of the numbers that a record has several of: by T, by rule."""


@dataclass(frozen=True)
class StepCost:
    """A fitted model of a step, all in ms.

    Attributes:
        step: T -> what no plan changes.
        rules: token rule -> what it takes more than top-k; one that was not measured has none.
        distinct, pair: of one distinct expert, and of one pair, in one layer.
    """

    step: Mapping[int, float]
    rules: Mapping[str, float]
    distinct: float
    pair: float

    def base(self, tokens: int, rule: str) -> float:
        """ms of a step of T tokens that no plan of a token rule changes, the rule's own work in it.

        Raises AllocMoEError for a T or a rule that was not measured.
        """
        if tokens not in self.step:
            known = ", ".join(map(str, sorted(self.step))) or "none"
            raise AllocMoEError(
                f"steps of {tokens} tokens were not timed, only of {known}: `allocmoe fit --batch {tokens}` times them"
            )
        if rule != PLAIN and rule not in self.rules:
            raise AllocMoEError(f"the rule {shown(rule)} was not timed: measure it with `allocmoe fit`")
        return self.step[tokens] + (0.0 if rule == PLAIN else self.rules[rule])

    def of(self, tokens: int, rule: str, distinct: float, pairs: float) -> float:
        """ms of a step of T tokens under a token rule, with D and P summed over layers; errors as of `base`."""
        return self.base(tokens, rule) + self.distinct * distinct + self.pair * pairs

    def metrics(self) -> dict[str, float]:
        """As a record has them."""
        return {
            "distinct_ms": self.distinct,
            "pair_ms": self.pair,
            **{f"step_ms/{tokens}": ms for tokens, ms in self.step.items()},
            **{f"rule_ms/{rule}": ms for rule, ms in self.rules.items()},
        }

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> StepCost:
        """From a record's; AllocMoEError where one of the costs is missing."""
        if missing := [name for name in ("distinct_ms", "pair_ms") if name not in metrics]:
            raise AllocMoEError(f"the fit lacks {' and '.join(missing)}: measure it again with `allocmoe fit`")
        named = {kind: {k.split("/", 1)[1]: v for k, v in metrics.items() if k.startswith(kind)} for kind in KINDS}
        steps, rules = (named[kind] for kind in KINDS)
        return cls({int(t): ms for t, ms in steps.items()}, rules, metrics["distinct_ms"], metrics["pair_ms"])
