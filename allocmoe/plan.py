"""Plan: how many experts each layer and token may use, for one model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError, shown
from allocmoe.routing import Parameter, TokenRule, token_rule
from allocmoe.spec import MoESpec

VERSION = 2
REFERENCES = ("original", "survivors")
TOP = "top-"
"""Before a number: a reference that is the mass of so many candidates."""
PLAIN = {"k_base": 1, "thresholds": []}
"""What version 1 wrote where a rule had no such number: digests are made as it made them."""


@dataclass(frozen=True)
class Plan:
    """An allocation that an engine can obey.

    Attributes:
        method: name of the method that made it (see `allocmoe.methods`).
        budget: B as requested, activations per token over all MoE layers; see `TokenRule.bounded`.
        layers: k_l per MoE layer, mean activations per token; whole unless the rule says otherwise.
        top_k: K, the model's own.
        token_rule: a name of `routing.RULES`.
        fingerprint: of the model it was made for.
        family, experts: of that model, for people.
        parameters: the rule's own numbers by name: a number, one per layer, or a list per layer.
        reference: after dropping, weights keep the original K's denominator ("original"), or are scaled to the
            original K's mass: over the survivors ("survivors"), or over the k2 heaviest candidates where these weigh
            more ("top-6" for k2 = 6).
        norms: [L][N], mean norms of all experts' outputs: candidates are ordered, and chosen, by weight times norm.
            Empty: by weight.
        scale: [L], what is left of a layer's weights is multiplied with it. Empty: with 1.
        origin: how it was made (normalisation, seed, digest of the sensitivity).
    """

    method: str
    budget: int
    layers: tuple[float, ...]
    top_k: int
    token_rule: str
    fingerprint: str
    family: str
    experts: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reference: str = "original"
    origin: dict[str, Any] = field(default_factory=dict)
    norms: tuple[tuple[float, ...], ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # tuples inside, so that a plan from a file equals the one that was written to it
        object.__setattr__(self, "parameters", {name: _frozen(value) for name, value in self.parameters.items()})
        for name in ("norms", "scale"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        self._check()

    @property
    def rule(self) -> TokenRule:
        return token_rule(self.token_rule)

    @property
    def exact_budget(self) -> float:
        """What the layers add up to; at most `budget`, unless the rule says that it counts something else."""
        return math.fsum(self.layers)

    @property
    def digest(self) -> str:
        """Hash of everything that decides what an engine computes; the same as when this was version 1."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("origin", "kind", "version", "parameters")}
        own = dict(self.parameters)
        first = {"k_base": own.pop("k_base", PLAIN["k_base"]), "thresholds": own.pop("threshold", PLAIN["thresholds"])}
        return documents.digest({**values, **first, **({"parameters": own} if own else {})})

    def numbers(self, layer: int) -> dict[str, Any]:
        """What the layer goes by: "k", the token rule's parameters, and "norms" and "scale" if there are any."""
        own = self.rule.numbers(self.layers[layer], self.parameters, layer)
        more = {"norms": self.norms, "scale": self.scale}
        return own | {name: value[layer] for name, value in more.items() if value}

    def described(self) -> dict[str, Any]:
        """What records and reports say of it: all of it, with what a record has of its own."""
        original = self.top_k * len(self.layers)
        moved = {"transplanted": self.origin["transplanted"]} if "transplanted" in self.origin else {}
        return {
            "layers": list(self.layers),
            "token_rule": self.token_rule,
            "parameters": dict(self.parameters),
            "reference": self.reference,
            **self._weighing(),
            "family": self.family,
            "experts": self.experts,
            "original_budget": original,
            "share": self.budget / original,
            "origin": {k: v for k, v in self.origin.items() if k != "transplanted"},
            **moved,
        }

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"exact_budget": self.exact_budget} | self._weighing()
        values["layers"] = list(self.layers)
        for name in {"norms", "scale"} - set(self._weighing()):
            del values[name]
        return {"kind": "allocmoe.plan", "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """From a document of any version that `documents.parse` has checked."""
        known = {k: v for k, v in values.items() if k not in ("kind", "version", "exact_budget")}
        if values.get("version") == 1:
            known = _from_version_1(known)
        return cls(**known | {"layers": tuple(values["layers"])})

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        documents.write_atomic(path, documents.dump(self.to_dict()))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read and check a plan file; AllocMoEError, in one sentence, for anything wrong with it."""
        try:
            return cls.from_dict(documents.read(path, "plan"))
        except AllocMoEError as error:
            raise AllocMoEError(f"{error} (plan {path})" if str(path) not in str(error) else str(error)) from None

    def check_model(self, spec: MoESpec, fingerprint: str) -> None:
        """Refuse a model that this plan was not made for."""
        for what, mine, theirs in (
            ("family", self.family, spec.family),
            ("MoE layers", len(self.layers), spec.layers),
            ("experts", self.experts, spec.experts),
            ("top-k", self.top_k, spec.top_k),
            ("weights", self.fingerprint, fingerprint),
        ):
            if mine != theirs:
                raise AllocMoEError(
                    f"this plan is for another model: its {what} {str(mine)[:60]}, the model's {theirs}; "
                    "make a plan for this model with `allocmoe allocate`"
                )

    def _weighing(self) -> dict[str, Any]:
        """`norms` and `scale`, where there are any."""
        known = {"norms": [list(row) for row in self.norms], "scale": list(self.scale)}
        return {name: value for name, value in known.items() if value}

    def _check(self) -> None:
        rule = self.rule
        check_reference(self.reference, self.top_k)
        for name in ("budget", "top_k", "experts"):
            if not isinstance(getattr(self, name), int):
                raise AllocMoEError(f"the plan's {name} must be a whole number, got {shown(getattr(self, name))}")
        for i, k in enumerate(self.layers):
            if not (math.isfinite(k) and 1 <= k <= self.top_k):
                raise AllocMoEError(f"layer {i} of the plan has k = {k}, outside 1..{self.top_k}")
            if k != int(k) and rule.whole:
                raise AllocMoEError(f"layer {i} of the plan has k = {k}; {self.token_rule} needs whole numbers")
        if rule.bounded and self.exact_budget > self.budget + 1e-6:
            raise AllocMoEError(f"the plan's layers add up to {self.exact_budget:g}, over its budget of {self.budget}")
        rule.check(self.parameters, len(self.layers), self.top_k, self.experts)
        for name, about, per in (("norms", NORMS, self.norms), ("scale", SCALE, self.scale)):
            if per:
                about.check(self.token_rule, name, per, len(self.layers), self.experts)
        if self.norms and not rule.by_scores:
            raise AllocMoEError(f"{self.token_rule} does not choose by contributions: leave out the plan's norms")


NORMS = Parameter("mean norm of an expert's output", per="expert", least=0.0)
SCALE = Parameter("factor of a layer's weights", least=1e-3)


def heaviest(reference: str) -> int:
    """k2 of a reference other than "original"; 0 of the survivors' own mass."""
    return int(reference.removeprefix(TOP)) if reference.startswith(TOP) else 0


def check_reference(reference: str, top_k: int) -> None:
    """AllocMoEError for a reference that no plan of a model with this K can have."""
    number = reference.removeprefix(TOP)
    ranked = number != reference and number.isdecimal() and 1 <= int(number) <= top_k
    if reference not in REFERENCES and not ranked:
        raise AllocMoEError(
            f"unknown reference {shown(reference)}: expected {', '.join(REFERENCES)}, or {TOP}1 to {TOP}{top_k}"
        )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _from_version_1(known: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 had a field for each number of any rule; those that are not the rule's said nothing."""
    numbers = {"k_base": known["k_base"], "threshold": known["thresholds"]}
    rest = {k: v for k, v in known.items() if k not in ("k_base", "thresholds")}
    own = token_rule(known["token_rule"]).parameters
    return rest | {"parameters": {name: value for name, value in numbers.items() if name in own}}
