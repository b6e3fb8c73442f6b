"""Records of a made-up history: commits a day apart, quality and a session or more of speed at each."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocmoe.records import Record

MACHINE = {"versions": {"torch": "2.13.0", "transformers": "5.19.0"}, "processor": "one", "cores": 2, "threads": 1}
ROUNDS = 10


def commit(number: int, **changes: Any) -> dict[str, Any]:
    return {"hash": f"{number:02x}" * 20, "date": f"2026-01-{number + 1:02}T12:00:00+00:00", "dirty": False} | changes


def quality(number: int, method: str = "alloc-moe", budget: int = 64, **parts: Any) -> Record:
    values: dict[str, Any] = {
        "setup": {"text": "mini-test", "windows": 8, "engine": "transformers"},
        "metrics": {"perplexity": 4.8, "group/mean": 0.6},
        "spent": {"per_token": float(budget)},
        "environment": {**MACHINE, "commit": commit(number)},
    }
    return _record("quality", method, budget, values | parts)


def session(number: int, name: str, slower: float = 1.0, seed: int = 0, **parts: Any) -> list[Record]:
    """One session of the original, uniform and alloc-t; `slower` multiplies alloc-t's decode times."""
    rng = np.random.default_rng([number, seed])
    values: dict[str, Any] = {
        "setup": {"engine": "transformers", "batch": 8, "session": name},
        "metrics": {"prefill_ms": 1.0, "tpot_ms": 1.0},
        "environment": {**MACHINE, "commit": commit(number)},
    }
    found = []
    mood = np.exp(rng.normal(0, 0.1, ROUNDS))
    for method, budget, cost in (("original", 128, 1.0), ("uniform", 64, 0.8), ("alloc-t", 64, 0.9 * slower)):
        times = [0.01 * scale * mood * np.exp(rng.normal(0, 0.01, ROUNDS)) for scale in (1.0, cost)]
        samples = {"prefill_s": times[0].tolist(), "decode_s": times[1].tolist()}
        found.append(_record("speed", method, budget, values | {"samples": samples} | parts))
    return found


def past(commits: int = 12, bad: int = 7) -> list[Record]:
    """A history whose commit `bad` costs 3 % of perplexity and 10 % of alloc-t's decode time."""
    found = []
    for n in range(commits):
        found += [quality(n, "original", 128)]
        found += [quality(n, metrics={"perplexity": 4.9 * (1.03 if n >= bad else 1.0), "group/mean": 0.58})]
        for s in range(2):
            found += session(n, f"{n}-{s}", 1.1 if n >= bad else 1.0, s)
    return found


def _record(about: str, method: str, budget: int, values: dict[str, Any]) -> Record:
    fixed = {"model": "mini-olmoe", "fingerprint": "f" * 16, "plan": "p", "command": "allocmoe", "created": "2026"}
    return Record(about=about, method=method, budget=budget, **(fixed | values))
