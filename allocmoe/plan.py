"""Plan: how many experts each layer and token may use, for one model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.spec import MoESpec

VERSION = 1
TOKEN_RULES = ("top_k", "alloc_t", "top_p", "naee")
REFERENCES = ("original", "survivors")


@dataclass(frozen=True)
class Plan:
    """An allocation that an engine can obey.

    Attributes:
        method: name of the method that made it (see `allocmoe.methods`).
        budget: B as requested, activations per token over all MoE layers.
        layers: k_l per MoE layer, mean activations per token; whole unless the rule is alloc_t.
        top_k: K, the model's own.
        token_rule: one of TOKEN_RULES.
        k_base: experts every token keeps under alloc_t.
        thresholds: per layer, P of top_p or beta of naee; empty for the other rules.
        reference: after dropping, weights keep the original K's denominator ("original") or are
            scaled to the original K's mass over the survivors ("survivors").
        fingerprint: of the model it was made for.
        family, experts: of that model, for people.
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
    k_base: int = 1
    thresholds: tuple[float, ...] = ()
    reference: str = "original"
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check()

    @property
    def exact_budget(self) -> float:
        """What the layers add up to; at most `budget`."""
        return math.fsum(self.layers)

    @property
    def digest(self) -> str:
        """Hash of everything that decides what an engine computes."""
        return documents.digest({k: v for k, v in self.to_dict().items() if k not in ("origin", "kind", "version")})

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"exact_budget": self.exact_budget}
        values["layers"], values["thresholds"] = list(self.layers), list(self.thresholds)
        return {"kind": "allocmoe.plan", "version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        known = {k: v for k, v in values.items() if k not in ("kind", "version", "exact_budget")}
        known["layers"], known["thresholds"] = tuple(values["layers"]), tuple(values["thresholds"])
        return cls(**known)

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
                    f"this plan is for another model: its {what} {mine}, the model's {theirs}; "
                    "make a plan for this model with `allocmoe allocate`"
                )

    def _check(self) -> None:
        if self.token_rule not in TOKEN_RULES:
            raise AllocMoEError(f"unknown token rule {self.token_rule!r}: expected one of {', '.join(TOKEN_RULES)}")
        if self.reference not in REFERENCES:
            raise AllocMoEError(f"unknown reference {self.reference!r}: expected one of {', '.join(REFERENCES)}")
        for name in ("budget", "top_k", "experts", "k_base"):
            if not isinstance(getattr(self, name), int):
                raise AllocMoEError(f"the plan's {name} must be a whole number, got {getattr(self, name)!r}")
        for i, k in enumerate(self.layers):
            if not (math.isfinite(k) and 1 <= k <= self.top_k):
                raise AllocMoEError(f"layer {i} of the plan has k = {k}, outside 1..{self.top_k}")
            if k != int(k) and self.token_rule != "alloc_t":
                raise AllocMoEError(f"layer {i} of the plan has k = {k}; {self.token_rule} needs whole numbers")
        if self.exact_budget > self.budget + 1e-6:
            raise AllocMoEError(f"the plan's layers add up to {self.exact_budget:g}, over its budget of {self.budget}")
        needs = self.token_rule in ("top_p", "naee")
        if needs and len(self.thresholds) != len(self.layers):
            raise AllocMoEError(
                f"{self.token_rule} needs one threshold per layer: {len(self.layers)}, got {len(self.thresholds)}"
            )
        if not all(map(math.isfinite, self.thresholds)):
            raise AllocMoEError(f"a threshold of {self.token_rule} is not a finite number: profile the model again")
        if self.k_base < 0:
            raise AllocMoEError(f"k_base must not be negative, got {self.k_base}")
