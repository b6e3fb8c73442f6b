"""What a method is: a row of the table in `allocmoe.methods`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from allocmoe.allocation import LayerRule, layer_rule
from allocmoe.routing import TokenRule, token_rule, weighing


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        layer_rule, token_rule: names of the rule that gives k_l and of the one that keeps experts under it.
        about: what it is.
        label: how figures and prose call it; empty for its name.
        caveat: a sentence that a reader of its figures must know.
        small_passes: it differs from its base only in passes of few tokens, so evaluation over whole windows does not
            tell the two apart.
        options: of its rules and of `routing.weighing`, where they differ from the defaults.
    """

    layer_rule: str
    token_rule: str
    about: str
    label: str = ""
    caveat: str = ""
    small_passes: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rules(self) -> tuple[LayerRule, TokenRule]:
        return layer_rule(self.layer_rule), token_rule(self.token_rule)

    @property
    def needs(self) -> tuple[str, ...]:
        """Quantities that a profile must have."""
        return self.needs_with(self.defaults)

    @property
    def needs_profile(self) -> bool:
        return bool(self.needs)

    def needs_with(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The same with other options."""
        across, within = self.rules
        own = (*across.needs, *within.needs_of(options), *weighing.needs(options))
        return tuple(dict.fromkeys(own))

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options with their defaults."""
        known = {name: value for rule in self.rules for name, value in rule.options.items()}
        return known | weighing.OPTIONS | dict(self.options)
