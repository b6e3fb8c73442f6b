"""asv: what a commit's plans cost and buy. One measuring session a commit, kept as records.

asv would run every parameter in a process of its own, and compare times taken minutes apart. So
`setup_cache` measures everything once, interleaved (`allocmoe.measure.run`), into
`.asv/records/<machine>/<commit>.jsonl`, and the benchmarks below only read that. ALLOCMOE_SUITE chooses what is
measured: "small" (the embedded models on a CPU; the default), "paper" (the paper's, on a GPU), or a JSON file.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

from allocmoe import records
from allocmoe.measure import run, suite

SUITE = suite.installed(suite.chosen())
HOURS = 3600.0


def folder() -> Path:
    """Where the records of this machine are kept, beside asv's own results."""
    return Path(__file__).resolve().parents[2] / ".asv/records" / platform.node()


def setup_cache() -> dict[Any, Any]:
    commit = (records.commit() or {}).get("hash", "unknown")
    found = suite.values(run.run(SUITE, folder() / f"{commit}.jsonl", progress=False))
    return {(at[0], at[1].removesuffix(" (random weights)"), at[2], asked(at[3]), at[4]): value for at, value in found}


def asked(share: float) -> float:
    """The suite's share that a whole budget's was made from: 0.3 of 128 are 38 activations, 0.2969 of them."""
    return min([1.0, *suite.shares(SUITE)], key=lambda s: abs(s - share))


setup_cache.timeout = 12 * HOURS  # type: ignore[attr-defined]


class _Reads:
    """A benchmark per metric: one value per parameter, NaN where a model or method has none."""

    param_names = ["model", "method", "share", "engine"]

    def read(self, metric: str, cache: dict[Any, Any], model: str, method: str, share: float, engine: str) -> Any:
        at = 1.0 if method == "original" else share
        return cache.get((metric, Path(model).name, method, at, engine), math.nan)


class Quality(_Reads):
    params = [list(SUITE.models), list(SUITE.methods), suite.shares(SUITE)]
    param_names = ["model", "method", "share"]

    def track_perplexity(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("perplexity", cache, *at, "transformers")

    def track_task_loss(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("task_loss", cache, *at, "transformers")

    def track_activations(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("activations", cache, *at, "transformers")

    track_perplexity.unit = "perplexity"  # type: ignore[attr-defined]
    track_task_loss.unit = "points below 100 %"  # type: ignore[attr-defined]
    track_activations.unit = "activations per token"  # type: ignore[attr-defined]


class Speed(_Reads):
    params = [
        list(dict.fromkeys(model for _, model in SUITE.timed)), list(SUITE.methods), suite.shares(SUITE),
        list(dict.fromkeys(engine for engine, _ in SUITE.timed)),
    ]  # fmt: skip

    def track_prefill(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("prefill_ms", cache, *at)

    def track_decode(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("decode_ms", cache, *at)

    def track_prefill_relative(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("prefill_relative", cache, *at)

    def track_decode_relative(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("decode_relative", cache, *at)

    def track_distinct_experts(self, cache: dict[Any, Any], *at: Any) -> Any:
        return self.read("distinct_experts", cache, *at)

    track_prefill.unit = "ms"  # type: ignore[attr-defined]
    track_decode.unit = "ms per token"  # type: ignore[attr-defined]
    track_prefill_relative.unit = "% of the original's time"  # type: ignore[attr-defined]
    track_decode_relative.unit = "% of the original's time"  # type: ignore[attr-defined]
    track_distinct_experts.unit = "experts per layer and decode step"  # type: ignore[attr-defined]
