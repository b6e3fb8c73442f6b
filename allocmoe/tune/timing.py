"""What tune times: the cost of a decode step first, the finalists in the end; each start in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from allocmoe import records
from allocmoe.engines.hf import HFEngine
from allocmoe.measure import fit, protocol
from allocmoe.measure.protocol import Protocol
from allocmoe.measure.starts import apart, live
from allocmoe.measure.wide import WIDE, transplanted
from allocmoe.plan import Plan
from allocmoe.records import Record
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
        machine = records.machine()
        for record in records.resume(self.path):
            here = all(record.environment.get(name) == value for name, value in machine.items())
            if record.about == "cost" and here and record.details.get("asked") == self._asked(settings):
                return record
        started = self.engine, self.model, self.dtype, self.device
        documents = apart(
            f"{self.engine} with {self.model}", fit.start, *started, [settings.batch], settings, self.seed,
            self.progress,
        )  # fmt: skip
        first, *timed = map(Record.from_dict, documents)
        first.details["asked"] = self._asked(settings)
        records.append(self.path, *timed, first)
        return first

    def _asked(self, settings: Protocol) -> list[Any]:
        return [self.engine, self.model, self.dtype, self.device, self.seed, vars(settings)]

    def session(self, plans: Sequence[Plan], settings: Protocol) -> list[Record]:
        """Records of one interleaved session of these plans, the unchanged model's first, in the order of the plans;
        from the file if it holds one."""
        wanted = [plan.digest for plan in plans]
        sessions: dict[str, dict[str, Record]] = {}
        asked = {**vars(settings), "engine": self.engine, "dtype": self.dtype, "seed": self.seed}
        for record in records.resume(self.path):
            if record.about == "speed" and all(record.setup.get(name) == value for name, value in asked.items()):
                own = record.details.get("transplanted", {}).get("plan", record.plan)
                sessions.setdefault(record.setup["session"], {})[own] = record
        for known in sessions.values():
            if set(wanted) <= set(known):
                return [known[digest] for digest in wanted]
        documents = apart(f"{self.engine} with {self.model}", _start, self, [p.to_dict() for p in plans], settings)
        found = [Record.from_dict(document) for document in documents]
        records.append(self.path, *found)
        return found


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


def _start(timed: Timed, plans: Sequence[dict[str, Any]], settings: Protocol) -> list[dict[str, Any]]:
    """One session in a start of its own; a wide shape runs the embedded model's plans."""
    started = live(timed.engine, timed.model, timed.dtype, timed.device, timed.seed)
    made = [Plan.from_dict(plan) for plan in plans]
    if timed.model in WIDE:
        made = [transplanted(plan, started, WIDE[timed.model]) for plan in made]
    found = protocol.session(started, made, settings, timed.seed, timed.progress)
    started.close()
    return [record.to_dict() for record in found]


def speedup(phase: str, record: Record, original: Record) -> Interval:
    """Of a phase over the unchanged model, paired by round."""
    return log_ratio(original.samples[f"{phase}_s"], record.samples[f"{phase}_s"])
