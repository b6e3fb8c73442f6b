"""What a layer rule is: it spreads a budget over the layers.

A rule is a file of this package that ends in `RULE = LayerRule(...)`, and a row of `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from allocmoe.errors import AllocMoEError, shown

if TYPE_CHECKING:
    from allocmoe.profile.sensitivity import Sensitivity
    from allocmoe.spec import MoESpec


@dataclass(frozen=True)
class Request:
    """What a plan is asked to be.

    Attributes:
        spec: routing shape of the model.
        amount: what may be spent: B activations, whole, within L..L*K; or what a rule of other `amounts` is asked for.
        profile: of the model, None where no rule needs one.
        options: every option of the method's two rules, by name.
    """

    spec: MoESpec
    amount: float
    profile: Sensitivity | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> int:
        """B, of an amount in activations."""
        return int(self.amount)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, K)."""
        return self.spec.layers, self.spec.top_k

    def quantity(self, name: str) -> Any:
        """A measured quantity of the profile; AllocMoEError where it was not measured."""
        if self.profile is None:
            raise AllocMoEError(f"a profile with {name} is needed: make one with `allocmoe profile`")
        return self.profile.quantity(name)


@dataclass(frozen=True)
class Allocation:
    """What a layer rule found.

    Attributes:
        layers: k_l [L].
        parameters: of the plan's token rule, where this rule has found them too; they go before what it would say.
        origin: what else a plan says of how it was made.
        budget: B, whole, within L..L*K, of a rule of other `amounts`; None for the request's own.
    """

    layers: Sequence[float]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None


@dataclass(frozen=True)
class LayerRule:
    """One layer rule.

    Attributes:
        name: in the table of methods.
        allocate: a request in, k_l [L] out, their sum at most B (but see `TokenRule.bounded`); an Allocation where
            there is more to say.
        needs: quantities of the profile that it reads.
        options: what a user may set, with the defaults; numbers, or words.
        amounts: whether budgets may be other than whole activations within L..L*K, which it then sees to itself.
    """

    name: str
    allocate: Callable[[Request], Sequence[float] | Allocation]
    needs: tuple[str, ...] = ()
    options: Mapping[str, float | str] = field(default_factory=dict)
    amounts: bool = False

    def found(self, request: Request) -> Allocation:
        """What it allocates, whatever it has to say of it."""
        made = self.allocate(request)
        return made if isinstance(made, Allocation) else Allocation(made)


def option_of(value: Any, like: float | str, name: str) -> float | str:
    """An option as its default's type; AllocMoEError where it is none."""
    if isinstance(like, str):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise AllocMoEError(f"{name} must be a number, got {shown(value)}") from None
    if isinstance(like, int):
        if number != number or number != int(min(max(number, -(2**63)), 2**63)):
            raise AllocMoEError(f"{name} must be a whole number, got {shown(value)}")
        return int(number)
    return number
