"""What is measured on each commit: a suite of models, methods and budgets. `run` measures it."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from allocmoe import mini
from allocmoe.engines import ENGINES, PASSES
from allocmoe.errors import AllocMoEError
from allocmoe.measure.protocol import Protocol
from allocmoe.methods import METHODS, for_windows

VARIABLE = "ALLOCMOE_SUITE"


@dataclass(frozen=True)
class Suite:
    """What to measure, and how much of it.

    Attributes:
        models: for quality; names of embedded models, or checkpoint folders.
        timed: for speed: (engine, model) pairs; a wide shape is timed under its embedded model's plans.
        methods: of METHODS; `original` is always among them.
        shares: budgets as shares of L * K; None: each model's own four, the paper's where it has them.
        text, calibration: held-out text and the profile's (see `data.text.windows`).
        windows, items: of the held-out text; per task, 0 for perplexity alone.
        passes: how the held-out text passes through the model, see `evaluate.quality.evaluate`.
        calibration_windows: what the profile reads.
        tasks: data sets, as `TaskSuite` takes them (paper: all 20); None: the embedded ones. What of them cannot be had
            where it runs is left out, and the records say so.
        protocol: of a speed session.
        starts: engine starts, each with one session.
        dtype, device: of the models.
        seed: of everything random.
    """

    models: tuple[str, ...]
    timed: tuple[tuple[str, str], ...]
    methods: tuple[str, ...] = tuple(for_windows())
    shares: tuple[float, ...] | None = (0.5,)
    text: str = "mini-test"
    calibration: str = "mini-train"
    windows: int = 32
    items: int = 50
    passes: str = "prefill"
    calibration_windows: int = 8
    tasks: tuple[str, ...] | None = None
    protocol: Protocol = field(default_factory=Protocol)
    starts: int = 3
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [m for m in self.methods if m not in METHODS]
        engines = [e for e, _ in self.timed if e not in ENGINES]
        if unknown or engines:
            raise AllocMoEError(f"a suite cannot measure {', '.join(unknown + engines)}: see `allocmoe measure --help`")
        if self.passes not in PASSES:
            raise AllocMoEError(f"unknown passes {self.passes[:60]!r}: expected {' or '.join(PASSES)}")
        if not all(0 < share < 1 for share in self.shares or ()) or self.starts < 0 or not (self.models or self.timed):
            raise AllocMoEError("a suite needs models, shares between 0 and 1, and engine starts that are not negative")


PAPER = ("allenai/OLMoE-1B-7B-0924", "Qwen/Qwen1.5-MoE-A2.7B", "deepseek-ai/DeepSeek-V2-Lite")
SUITES = {
    "small": Suite(
        models=tuple(mini.shipped()),
        timed=(("transformers", "mini-olmoe"), ("vllm", "mini-olmoe")),
        protocol=Protocol(decode=16, warmups=2),
    ),
    "paper": Suite(
        models=PAPER,
        timed=tuple((engine, model) for model in PAPER for engine in ("vllm", "transformers")),
        shares=None,
        text="wikitext2-test",
        calibration="wikitext2-train",
        windows=128,
        items=500,
        calibration_windows=64,
        tasks=("paper",),
        dtype="bfloat16",
        device="cuda",
    ),
}


_STRINGS = {"type": "array", "items": {"type": "string"}}
_TEXT, _WHOLE = {"type": "string"}, {"type": "integer", "maximum": 2**32 - 1}  # the most that a seed may be
_COUNT, _FROM_ONE = {**_WHOLE, "minimum": 0}, {**_WHOLE, "minimum": 1}
_FORM = {
    "type": "object",
    "properties": {
        "models": _STRINGS,
        "methods": _STRINGS,
        "tasks": {"anyOf": [_STRINGS, {"type": "null"}]},
        "timed": {"type": "array", "items": {**_STRINGS, "minItems": 2, "maxItems": 2}},
        "shares": {"type": ["array", "null"], "items": {"type": "number"}},
        "text": _TEXT, "passes": _TEXT, "calibration": _TEXT, "dtype": _TEXT, "device": _TEXT,
        "windows": _FROM_ONE, "calibration_windows": _FROM_ONE,
        "items": _COUNT, "starts": _COUNT, "seed": _COUNT,
        "protocol": {"type": "object", "additionalProperties": _WHOLE},
    },
}  # fmt: skip


def chosen(asked: str | None = None) -> Suite:
    """The suite that is asked for: a name of SUITES, or a JSON file with the fields of a `Suite` that
    differ from "small". None: what the variable ALLOCMOE_SUITE says, else "small"."""
    name = asked or os.environ.get(VARIABLE) or "small"
    if name in SUITES:
        return SUITES[name]
    try:
        values = json.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AllocMoEError(f"no suite {name!r} ({error}): expected {' or '.join(SUITES)}, or a JSON file") from None
    known = {f.name for f in fields(Suite)}
    if not isinstance(values, dict) or not set(values) <= known:
        raise AllocMoEError(f"the suite {name} has unknown fields: expected some of {', '.join(sorted(known))}")
    for fault in Draft202012Validator(_FORM).iter_errors(values):
        where = ".".join(map(str, fault.absolute_path))
        raise AllocMoEError(f"the suite {name} cannot be understood: {where}: {fault.message[:200]}")
    try:
        if "protocol" in values:
            values["protocol"] = Protocol(**values["protocol"])
        if "timed" in values:
            values["timed"] = [tuple(pair) for pair in values["timed"]]
        changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return replace(SUITES["small"], **changes)
    except TypeError as error:
        raise AllocMoEError(f"the suite {name} cannot be understood: {error}") from None


def installed(suite: Suite) -> Suite:
    """The suite without engines that are not installed here."""
    missing = {engine for engine, _ in suite.timed if importlib.util.find_spec(engine) is None}
    return replace(suite, timed=tuple(pair for pair in suite.timed if pair[0] not in missing))
