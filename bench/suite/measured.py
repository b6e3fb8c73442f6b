"""asv: what a commit's plans cost and buy. One measuring session a commit, kept as records.

asv would run every parameter in a process of its own, and compare times taken minutes apart. So
`setup_cache` measures everything once, interleaved (`allocmoe.measure.run`), into
`.asv/records/<machine>/<commit>.jsonl`, and the benchmarks below only read that. ALLOCMOE_SUITE chooses what is
measured: "small" (the embedded models on a CPU; the default), "paper" (the paper's, on a GPU), or a JSON file.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from allocmoe import records
from allocmoe.measure import run, suite
from allocmoe.measure.tracked import shares, values
from allocmoe.metrics import METRICS

SUITE = suite.installed(suite.chosen())
HOURS = 3600.0


def folder() -> Path:
    """Where the records of this machine are kept, beside asv's own results."""
    return Path(__file__).resolve().parents[2] / ".asv/records" / platform.node()


def setup_cache() -> dict[Any, Any]:
    commit = (records.commit() or {}).get("hash", "unknown")
    found = values(run.run(SUITE, folder() / f"{commit}.jsonl", progress=False))
    return {(at[0], at[1].removesuffix(" (random weights)"), at[2], asked(at[3]), at[4]): value for at, value in found}


def asked(share: float) -> float:
    """The suite's share that a whole budget's was made from: 0.3 of 128 are 38 activations, 0.2969 of them."""
    return min([1.0, *shares(SUITE)], key=lambda s: abs(s - share))


setup_cache.timeout = 12 * HOURS  # type: ignore[attr-defined]


def reader(name: str, unit: str) -> Callable[..., Any]:
    """A benchmark of one tracked figure: its value per parameter, NaN where a model or method has none."""

    def track(self: Any, cache: dict[Any, Any], model: str, method: str, share: float, *engine: str) -> Any:
        at = 1.0 if method == "original" else share
        return cache.get((name, Path(model).name, method, at, *(engine or ("transformers",))), math.nan)

    track.unit = unit  # type: ignore[attr-defined]
    track.version = name  # type: ignore[attr-defined]  # else a digest of this source, and a change of it loses the past
    return track


def benchmarks(about: str) -> dict[str, Any]:
    """`track_*` of everything that the metrics of one kind of record have asv track."""
    tracked = [t for metric in METRICS.values() if metric.about[0] == about for t in metric.tracked]
    return {f"track_{NAMES.get(t.name, t.name)}": reader(t.name, t.unit) for t in tracked}


NAMES = {"prefill_ms": "prefill", "decode_ms": "decode"}
"""What asv's stored results call them."""


class Quality:
    params = [list(SUITE.models), list(SUITE.methods), shares(SUITE)]
    param_names = ["model", "method", "share"]
    vars().update(benchmarks("quality"))


class Speed:
    params = [
        list(dict.fromkeys(model for _, model in SUITE.timed)), list(SUITE.methods), shares(SUITE),
        list(dict.fromkeys(engine for engine, _ in SUITE.timed)),
    ]  # fmt: skip
    param_names = ["model", "method", "share", "engine"]
    vars().update(benchmarks("speed"))
