"""Record: one measurement, on what, with which versions and command."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from allocmoe import documents
from allocmoe.records.origin import environment, typed

VERSION = 1


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        about: "quality", "speed" or "profile"; "cost": of a decode step, fitted; "routing": the routers' part of it;
            "tune": what a search chose; "part": of a quality that is being measured, kept beside the records;
            "analysis": part of an analysis, which its setup names;
            "training": how a model was made, and what it then says of held-out text;
            "failure": nothing could be measured; "history" and "gate": simulations of how often those err.
        model, fingerprint: name and weights of the model.
        method, budget: of the plan; None for a measurement of no plan.
        plan: digest of the plan, None without one.
        setup: everything that decides the result and is not the plan: data, batching, protocol, seed.
        metrics: the results, flat name -> number.
        spent: activations per token actually spent, per layer and in all; distinct experts.
        samples: raw values behind the metrics.
        details: further material (the plan's layers, the sensitivity).
        environment: machine, versions and commit.
        command: as typed.
        created: UTC, ISO 8601.
    """

    about: str
    model: str
    fingerprint: str
    method: str | None
    budget: int | None
    plan: str | None
    setup: dict[str, Any]
    metrics: dict[str, float]
    spent: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)
    command: str = field(default_factory=typed)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def key(self) -> str:
        """Equal for two measurements of the same thing: what a resumed sweep looks for."""
        return documents.digest([self.about, self.fingerprint, self.method, self.budget, self.plan, self.setup])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "allocmoe.record", "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        return cls(**{k: v for k, v in values.items() if k not in ("kind", "version")})
