"""Sensitivity: everything the allocation wants to know that takes the model to find out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.spec import MoESpec

VERSION = 1


@dataclass(frozen=True)
class Sensitivity:
    """Profile of one model on one calibration text.

    Attributes:
        spec: routing shape of the model.
        fingerprint: of its weights.
        perplexity: S, [L][K], column k-1 is S[., k] of Algorithm 1.
        distances: LExI's D_l(k), [L][K]; data-free.
        top_p: P per whole k and layer, [K][L], calibrated in closed form.
        naee: beta per whole k and layer, [K][L].
        evaluations: perplexity evaluations behind S, L(K-1)+1.
        calibration: text, tokens, window, batching and seed it was measured with.
    """

    spec: MoESpec
    fingerprint: str
    perplexity: tuple[tuple[float, ...], ...]
    distances: tuple[tuple[float, ...], ...]
    top_p: tuple[tuple[float, ...], ...]
    naee: tuple[tuple[float, ...], ...]
    evaluations: int
    calibration: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = (self.spec.layers, self.spec.top_k)
        for name, shape in (
            ("perplexity", wanted), ("distances", wanted), ("top_p", wanted[::-1]), ("naee", wanted[::-1]),
        ):  # fmt: skip
            table = np.array(getattr(self, name), dtype=object)
            if table.shape != shape:
                raise AllocMoEError(f"the profile's {name} has shape {list(table.shape)}, expected {list(shape)}")

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
        tables = {n: tuple(map(tuple, values[n])) for n in ("perplexity", "distances", "top_p", "naee")}
        return cls(
            spec=MoESpec(**values["spec"]),
            fingerprint=values["fingerprint"],
            evaluations=values["evaluations"],
            calibration=values["calibration"],
            **tables,
        )
