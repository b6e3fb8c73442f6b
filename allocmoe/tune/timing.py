"""What tune times: the cost of a decode step first, the finalists in the end; each start in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from allocmoe import mini, records
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.measure import fit
from allocmoe.measure.protocol import Protocol, whole_session
from allocmoe.measure.shapes import SHAPES
from allocmoe.measure.starts import apart, timed
from allocmoe.measure.wide import WIDE
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.spec import MoESpec, fingerprint
from allocmoe.stats import Interval, log_ratio


@dataclass(frozen=True)
class Timed:
    """Where steps are timed.

    Attributes:
        engine, model: name of the engine, and a model or shape that `measure.starts.live` knows.
        dtype, device, seed: of it.
        path: records file.
        progress: whether to show it.
    """

    engine: str
    model: str
    dtype: str
    device: str
    seed: int
    path: Path
    progress: bool = True

    def described(self) -> dict[str, Any]:
        """For records."""
        return {"engine": self.engine, "timed": self.model, "dtype": self.dtype, "device": self.device}

    def cost(self, settings: Protocol) -> Record:
        """The cost of a step of `settings.batch` sequences: from the file if it is there, else fitted now."""
        for record in self._known(settings):
            if record.about == "cost":
                return record
        document = apart(
            self._name, fit.start, self.engine, self.model, self.dtype, self.device, [settings.batch], settings,
            self.path, self.seed, self.progress,
        )  # fmt: skip
        return self._kept([document], settings)[0]

    def session(self, plans: Sequence[Plan], settings: Protocol) -> list[Record]:
        """Records of one interleaved session of these plans, in their order; from the file if it holds one."""
        found = whole_session(self._known(settings), [plan.digest for plan in plans])
        if found:
            return found
        documents = [plan.to_dict() for plan in plans]
        made = apart(
            self._name, timed, self.engine, self.model, self.dtype, self.device, self.seed, documents, settings,
            self.progress,
        )  # fmt: skip
        return self._kept(made, settings)

    @property
    def _name(self) -> str:
        return f"{self.engine} with {self.model}"

    def _asked(self, settings: Protocol) -> list[Any]:
        """Everything that decides a time, but for the plans: what a start was asked for, by whom."""
        weights = "" if self.model in SHAPES else fingerprint(mini.resolve(self.model))
        return [*self.described().values(), weights, self.seed, vars(settings), records.machine()]

    def _known(self, settings: Protocol) -> list[Record]:
        asked = self._asked(settings)
        return [record for record in records.resume(self.path) if record.details.get("asked") == asked]

    def _kept(self, documents: Sequence[dict[str, Any]], settings: Protocol) -> list[Record]:
        found = [Record.from_dict(document) for document in documents]
        for record in found:
            record.details["asked"] = self._asked(settings)
        records.append(self.path, *found)
        return found

    def check(self, name: str, spec: MoESpec) -> None:
        """AllocMoEError unless the plans of a model can run on what is timed: it itself, or a wide shape like it."""
        if self.model == name:
            return
        like = MoESpec.from_config(SHAPES[self.model]()) if self.model in WIDE else None
        if like is None or any(getattr(like, n) != getattr(spec, n) for n in ("layers", "experts", "top_k")):
            raise AllocMoEError(
                f"plans of {name[:60]} do not fit the shape {self.model[:60]}: time the model itself, or a shape with "
                f"its MoE layers, experts and top-k among {', '.join(WIDE)}"
            )


@contextmanager
def aside(engine: HFEngine) -> Iterator[None]:
    """Leave an accelerator to another process for a while: a vLLM that starts wants most of its memory."""
    device = engine.model.device
    if device.type != "cpu":
        engine.model.to("cpu")
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        engine.model.to(device)


def speedup(phase: str, record: Record, original: Record) -> Interval:
    """Of a phase over the unchanged model, paired by round."""
    return log_ratio(original.samples[f"{phase}_s"], record.samples[f"{phase}_s"])
