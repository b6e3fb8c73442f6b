"""Records made up to look like two measurements, with noise as large as wanted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from allocmoe.gate import Gate, Row
from allocmoe.records import Record

COMMIT = {"hash": "a" * 40, "date": "2026-01-02T03:04:05+00:00", "dirty": False}
ENVIRONMENT: dict[str, Any] = {
    "versions": {"python": "3.11.9", "torch": "2.9.0", "allocmoe": "0.1.0"},
    "system": "Linux x86_64",
    "processor": "some",
    "cores": 8,
    "threads": 8,
    "commit": COMMIT,
}
PLANS = (("original", 128), ("uniform", 64), ("alloc-moe", 64))
GAIN = {"original": 1.0, "uniform": 1.3, "alloc-moe": 1.2}
NAME = "mini/alloc-moe/64"


def made(about: str, method: str, budget: int, **parts: Any) -> Record:
    values: dict[str, Any] = {
        "model": "mini",
        "fingerprint": "f" * 16,
        "plan": f"{method}-{budget}",
        "environment": ENVIRONMENT,
        "metrics": {},
        "spent": {"per_token": float(budget)},
        "command": "allocmoe",
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Record(about=about, method=method, budget=budget, **(values | parts))


def quality(method: str, budget: int, seed: int, items: int = 600, windows: int = 32) -> Record:
    rng = np.random.default_rng([seed, budget])
    nll = np.random.default_rng(budget).normal(2, 0.3, windows) + rng.normal(0, 1e-4, windows)
    correct = np.random.default_rng(budget).uniform(size=(2, items // 2)) < 0.8
    tasks = {
        name: {"ids": [f"{name}/{i}" for i in range(items // 2)], "correct": side.astype(int).tolist()}
        for name, side in zip(("cloze", "add"), correct, strict=True)
    }
    return made(
        "quality",
        method,
        budget,
        setup={"text": "stories", "windows": windows, "window": 256, "seed": 0, "tasks": dict.fromkeys(tasks, items)},
        metrics={"perplexity": math.exp(nll.mean())},
        samples={"nll": nll.tolist(), "window_tokens": [255] * windows, "tasks": tasks},
    )


def session(seed: int, number: int, noise: float, rounds: int = 8) -> list[Record]:
    rng = np.random.default_rng([seed, number])
    shared = np.exp(rng.normal(0, 0.2, rounds))
    found = []
    for method, budget in PLANS:
        drift = rng.normal(0, noise)
        times = [shared / GAIN[method] * np.exp(drift + rng.normal(0, noise, rounds)) for _ in range(2)]
        samples = {"prefill_s": (0.04 * times[0]).tolist(), "decode_s": (0.4 * times[1]).tolist()}
        setup = {"batch": 8, "prompt": 32, "decode": 16, "runs": rounds, "session": f"{seed}-{number}"}
        found.append(made("speed", method, budget, setup=setup, samples=samples))
    return found


def measured(seed: int, sessions: int = 5, noise: float = 0.002) -> list[Record]:
    """Quality of three plans and some sessions of their speed."""
    found = [quality(*plan, seed) for plan in PLANS]
    return found + [record for number in range(sessions) for record in session(seed, number, noise)]


def slower(records: list[Record], factor: float, method: str = "uniform") -> list[Record]:
    """The same, with all times of one method longer."""
    return [
        replace(r, samples={name: [factor * s for s in times] for name, times in r.samples.items()})
        if r.about == "speed" and r.method == method
        else r
        for r in records
    ]


def changed(records: list[Record], about: str, **parts: Any) -> list[Record]:
    """The same, with attributes of the records about one thing replaced; a function is applied to the old value."""
    return [
        replace(r, **{k: v(getattr(r, k)) if callable(v) else v for k, v in parts.items()}) if r.about == about else r
        for r in records
    ]


def machine(**values: Any) -> dict[str, Any]:
    return ENVIRONMENT | values


def verdicts(found: Gate) -> dict[str, str]:
    return {row.name: row.verdict for row in found.rows}


def row(found: Gate, name: str) -> Row:
    return next(r for r in found.rows if r.name == name)


def worse(records: list[Record], about: str = "quality", method: str = "alloc-moe", **parts: object) -> list[Record]:
    return [changed([r], about, **parts)[0] if r.method == method else r for r in records]


def lose(samples: dict, items: int) -> dict:
    correct = list(samples["tasks"]["add"]["correct"])
    for i in [i for i, right in enumerate(correct) if right][:items]:
        correct[i] = 0
    return samples | {"tasks": samples["tasks"] | {"add": samples["tasks"]["add"] | {"correct": correct}}}
