"""What a token rule is: which of a token's candidates are kept, in one forward pass of one layer.

A rule is a file of this package that ends in `RULE = TokenRule(...)`, and a row of `RULES`. Whoever dispatches on a
rule's name asks that table; what a rule needs to know of plans, profiles and kernels, it says itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from allocmoe.errors import AllocMoEError, shown
from allocmoe.routing.scores import PLAIN, Scoring

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.allocation.rule import Request

Numbers = Mapping[str, Any]
"""A rule's numbers for one layer: "k", that is k_l, and its parameters; floats, or tensors on the device."""


@dataclass(frozen=True)
class Candidates:
    """What a router offers to the tokens of one forward pass.

    Attributes:
        weights: [T, K] combine weights, heaviest first, ties in the router's order.
        ids: [T, K] their experts.
        valid: bool [T], False for padding; None if there is none.
        logits: [T, N] of the router, for rules with `logits`; else None.
        scoring: how the model makes scores and combine weights of them.
        worth: [T, K], what candidates are ordered and chosen by, highest first, if not by their weights.
    """

    weights: Tensor
    ids: Tensor
    valid: Tensor | None = None
    logits: Tensor | None = None
    scoring: Scoring = PLAIN
    worth: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """What candidates are chosen by, in float32."""
        return (self.weights if self.worth is None else self.worth).float()


class Selection(NamedTuple):
    """What a rule keeps: [T, k] combine weights and ids, and which of them (bool [T, k]; None: all).

    Padding may be marked as kept: the engine drops it.
    """

    weights: Tensor
    ids: Tensor
    keep: Tensor | None = None


@dataclass(frozen=True)
class Parameter:
    """A number of a rule that a plan carries.

    Attributes:
        about: in words, for messages.
        per: "plan" (one number), "layer" ([L] numbers), "either" of these two, or "expert" ([L][N] numbers).
        least: smallest value.
        whole: whether it must be a whole number.
    """

    about: str
    per: str = "layer"
    least: float = -math.inf
    whole: bool = False

    def of_layer(self, value: Any, layer: int) -> Any:
        """The number of one layer, or its numbers per expert."""
        return value if self._one(value) else value[layer]

    def everywhere(self, value: Any, layers: int) -> Any:
        """What a plan carries if every layer has this value."""
        return value if self.per in ("plan", "either") else (value,) * layers

    def _one(self, value: Any) -> bool:
        """Whether this is one number for all layers."""
        return self.per == "plan" or (self.per == "either" and not isinstance(value, list | tuple))

    def check(self, rule: str, name: str, value: Any, layers: int, experts: int) -> None:
        """AllocMoEError unless `value` is what a plan of so many layers and experts needs."""
        if self._one(value):
            self._number(rule, name, value)
            return
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != layers:
            found = len(value) if isinstance(value, Sequence) and not isinstance(value, str) else shown(value)
            raise AllocMoEError(f"{rule} needs one value of {name} per layer: {layers}, got {found}")
        for one in value:
            if self.per != "expert":
                self._number(rule, name, one)
                continue
            if not isinstance(one, Sequence) or isinstance(one, str) or not len(one):
                raise AllocMoEError(f"{rule}'s {name} must be a list of numbers for every layer, got {shown(one)}")
            if len(one) != experts:
                raise AllocMoEError(f"{rule} needs one value of {name} per expert: {experts}, got {len(one)}")
            for number in one:
                self._number(rule, name, number)

    def _number(self, rule: str, name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise AllocMoEError(f"a {name} of {rule} is not a finite number ({shown(value)}): profile the model again")
        if self.whole and value != int(value):
            raise AllocMoEError(f"the {name} of {rule} must be a whole number, got {shown(value)}")
        if value < self.least:
            raise AllocMoEError(f"{name} must not be {self._below()}, got {shown(value)}")

    def _below(self) -> str:
        return "negative" if self.least == 0 else f"below {self.least:g}"


def nothing(_request: Request, _layers: Sequence[float]) -> dict[str, Any]:
    """Parameters of a rule that has none."""
    return {}


def anything(_numbers: Mapping[str, Any], _top_k: int, _experts: int) -> str:
    """No objection to a layer's parameters."""
    return ""


@dataclass(frozen=True)
class TokenRule:
    """One token rule.

    Attributes:
        name: in plans.
        select: candidates and numbers in, what is kept out. Nothing in it waits for the device, and with tensors
            as numbers no shape depends on their values: so it can be captured.
        keep_all: of (K, N), the parameters of one layer under which every token keeps all of its K.
        parameters: what a plan of this rule carries, by name.
        calibrate: of (request, k_l [L]), the parameters of a plan.
        objection: of one layer's parameters, K and N: what is wrong with numbers that are numbers, else "".
        needs: quantities of the profile that `calibrate` reads; `instead`: others, where scores are contributions.
        options: numbers that a user may set, with their defaults; `calibrate` finds them in the request.
        whole: k_l must be whole numbers.
        prefix: what a token keeps are its first candidates, so that kernels may cut the row off.
        ragged: tokens of one pass may keep different numbers of candidates.
        logits: whether `select` reads the router's logits.
        scorings: the routers that it is known for, see `MoESpec.scoring`; empty: all.
        untouched: with k = K the candidates stay as the router gave them.
        alone: each token is decided by itself, so that it does not matter which others share its pass.
        many: `select` takes candidates of several passes at once, [passes, T, K], and decides in each by itself.
        by_scores: it chooses by `Candidates.scores`, so that they may be contributions, see `Plan.norms`.
        absolute: it compares combine weights with fixed numbers, so they must not be scaled afterwards.
        bounded: a plan's budget counts activations, so its layers add up to no more. Where a rule keeps others than
            k_l anyway, the budget may stand for something else, distinct experts say.
    """

    name: str
    select: Callable[[Candidates, Numbers], Selection]
    keep_all: Callable[[int, int], dict[str, Any]]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    calibrate: Callable[[Request, Sequence[float]], dict[str, Any]] = nothing
    objection: Callable[[Mapping[str, Any], int, int], str] = anything
    needs: tuple[str, ...] = ()
    instead: tuple[str, ...] | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    whole: bool = True
    prefix: bool = True
    ragged: bool = True
    logits: bool = False
    scorings: tuple[str, ...] = ()
    untouched: bool = False
    alone: bool = False
    many: bool = False
    by_scores: bool = False
    absolute: bool = False
    bounded: bool = True

    def check(self, parameters: Mapping[str, Any], layers: int, top_k: int, experts: int) -> None:
        """AllocMoEError unless these are the parameters of a plan for L, K and N."""
        if unknown := sorted(set(parameters) - set(self.parameters)):
            expected = ", ".join(self.parameters) or "none"
            raise AllocMoEError(f"{self.name} has no parameter {shown(', '.join(unknown))}: expected {expected}")
        for name, parameter in self.parameters.items():
            parameter.check(self.name, name, parameters.get(name, ()), layers, experts)
        for layer in range(layers):
            own = {name: p.of_layer(parameters[name], layer) for name, p in self.parameters.items()}
            if wrong := self.objection(own, top_k, experts):
                raise AllocMoEError(f"layer {layer} of the plan: {wrong}")

    def needs_of(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Quantities of the profile that `calibrate` reads under these options."""
        other = self.instead if options.get("scores") == "contribution" else None
        return self.needs if other is None else other

    def check_scoring(self, scoring: str) -> None:
        """AllocMoEError for a rule that is not known for a router that scores so, see `MoESpec.scoring`."""
        if self.scorings and scoring not in self.scorings:
            raise AllocMoEError(
                f"{self.name} is known here for {' and '.join(self.scorings)} routers, and this model's is {scoring}: "
                "use another method's plan"
            )

    def numbers(self, k: float, parameters: Mapping[str, Any], layer: int) -> dict[str, Any]:
        """The numbers of one layer of a plan."""
        return {"k": k, **{name: p.of_layer(parameters[name], layer) for name, p in self.parameters.items()}}


def kept(candidates: Candidates, keep: Tensor) -> Selection:
    """The candidates, some of them marked as kept."""
    return Selection(candidates.weights, candidates.ids, keep)
