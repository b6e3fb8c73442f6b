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
        budget: B, whole, within L..L*K.
        profile: of the model, None where no rule needs one.
        options: every option of the method's two rules, by name.
    """

    spec: MoESpec
    budget: int
    profile: Sensitivity | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

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
class LayerRule:
    """One layer rule.

    Attributes:
        name: in the table of methods.
        allocate: a request in, k_l [L] out, their sum at most B (but see `TokenRule.bounded`).
        needs: quantities of the profile that it reads.
        options: what a user may set, with the defaults; numbers, or words.
        made_for: of a request, what else a plan says of how it was made.
    """

    name: str
    allocate: Callable[[Request], Sequence[float]]
    needs: tuple[str, ...] = ()
    options: Mapping[str, float | str] = field(default_factory=dict)
    made_for: Callable[[Request], dict[str, Any]] = lambda _request: {}


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
