"""Sensitivity: everything the allocation wants to know that takes the model to find out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.profile.quantities import quantity
from allocmoe.spec import MoESpec

VERSION = 2


@dataclass(frozen=True)
class Sensitivity:
    """Profile of one model on one calibration text: as many quantities as were asked for.

    Attributes:
        spec: routing shape of the model.
        fingerprint: of its weights.
        quantities: measured values by name, see `profile.quantities.QUANTITIES`.
        measured: per quantity, what it took and how: evaluations, windows.
        calibration: text, tokens, window, batching and seed that all of them were measured with.
    """

    spec: MoESpec
    fingerprint: str
    quantities: Mapping[str, Any]
    measured: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.quantities.items():
            quantity(name).check(value, self.spec)

    def quantity(self, name: str) -> Any:
        """A measured quantity; AllocMoEError, with what to do, where it was not measured."""
        about = quantity(name)
        if name not in self.quantities:
            raise AllocMoEError(
                f"the profile lacks {name} ({about.about}): add it with `allocmoe profile --quantity {name}`"
            )
        return self.quantities[name]

    @property
    def digest(self) -> str:
        return documents.digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "allocmoe.sensitivity", "version": VERSION, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        documents.write_atomic(path, documents.dump(self.to_dict()))

    @classmethod
    def load(cls, path: Path) -> Sensitivity:
        """Read and check a profile; AllocMoEError, in one sentence, for anything wrong with it."""
        values = documents.read(path, "sensitivity")
        if values["version"] == 1:
            values = _from_version_1(values)
        return cls(
            spec=MoESpec(**values["spec"]),
            fingerprint=values["fingerprint"],
            quantities=values["quantities"],
            measured=values["measured"],
            calibration=values["calibration"],
        )


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had four quantities, always all of them."""
    named = {name: values[name] for name in ("perplexity", "distances", "top_p", "naee")}
    calibration = dict(values["calibration"])
    few = {"windows": calibration.pop("threshold_windows")} if "threshold_windows" in calibration else {}
    measured = {"perplexity": {"evaluations": values["evaluations"]}, "top_p": few, "naee": few}
    return {**values, "quantities": named, "measured": measured, "calibration": calibration}
