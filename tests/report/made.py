"""Records made up to look like a sweep of all methods over four budgets, and what a test reads from a page."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np

from allocmoe.methods import METHODS
from allocmoe.records import Record

LAYERS, TOP_K, BUDGETS = 8, 6, (40, 32, 24, 16)
WHOLE = LAYERS * TOP_K
MINI, WIDE, SMALL = "f" * 16, "b" * 16, "a" * 16
GROUPS = {g: [f"mini_{t}" for t in ts.split()] for g, ts in
          {"nlu": "entail agree cloze", "reasoning": "where why order", "math": "add count max"}.items()}  # fmt: skip
CHANCE = {"mini_entail": 0.5, "mini_agree": 0.5, "mini_max": 0.5}
HARM = {"original": 0.0, "uniform": 1.0, "ascending": 1.5, "descending": 0.9, "lexi": 0.85, "alloc-l": 0.6,
        "dynamic-moe": 0.8, "naee": 0.7, "alloc-t": 0.45, "alloc-moe": 0.3}  # fmt: skip
ENVIRONMENT = {"versions": {"python": "3.11.9", "allocmoe": "0.1.0"}, "system": "Linux x86_64", "cores": 8}
SETUP = {"engine": "transformers", "batch": 8, "decode": 128, "runs": 10, "session": "one", "seed": 0}


def plans(*among: str) -> list[tuple[str, int]]:
    return [("original", WHOLE)] + [(m, b) for m in among or METHODS if m != "original" for b in BUDGETS]


def made(about: str, method: str | None, budget: int | None, **parts: object) -> Record:
    values = {"model": "mini-olmoe", "fingerprint": MINI, "plan": f"{method}-{budget}", "environment": ENVIRONMENT}
    values |= {"command": f"allocmoe sweep --method {method}", "created": "2025-01-01T00:00:00+00:00", "metrics": {}}
    return Record(about=about, method=method, budget=budget, **(values | parts))


def layers(method: str, budget: int) -> list[float]:
    slope = {"ascending": 1.0, "descending": -1.0, "lexi": -0.4, "alloc-l": -0.7, "alloc-moe": -0.7}.get(method, 0.0)
    return np.clip(budget / LAYERS + slope * (np.arange(LAYERS) - (LAYERS - 1) / 2), 1, TOP_K).round().tolist()


def planned(method: str, budget: int) -> dict[str, Any]:
    return {"layers": layers(method, budget), "original_budget": WHOLE, "share": budget / WHOLE}


def quality(method: str, budget: int, text: str = "generated stories", windows: int = 32, items: int = 200) -> Record:
    harm = HARM.get(method, 0.95) * (WHOLE / budget - 1) ** 1.3 * 0.3
    common, own = np.random.default_rng(0), np.random.default_rng([list(METHODS).index(method), budget])
    nll = 2.2 + common.normal(0, 0.3, windows) + harm + own.normal(0, 0.01, windows)
    tasks, metrics = {}, {"perplexity": math.exp(nll.mean())}
    levels = {task: CHANCE.get(task, 0.25) for names in GROUPS.values() for task in names}
    for group, names in GROUPS.items():
        for number, task in enumerate(names):
            best, hard = 0.95 - 0.1 * number, common.uniform(size=items)
            right = best - (best - levels[task]) * min(1.0, harm + 0.02)
            correct = np.where(own.uniform(size=items) < 0.15, own.uniform(size=items), hard) < right
            tasks[task] = {"ids": [f"{task}/{i}" for i in range(items)], "correct": correct.astype(int).tolist()}
            metrics[f"acc/{task}"] = float(correct.mean())
        metrics[f"group/{group}"] = float(np.mean([metrics[f"acc/{t}"] for t in names]))
    metrics["group/mean"] = float(np.mean([metrics[f"group/{g}"] for g in GROUPS]))
    off = {"naee": 1.06, "dynamic-moe": 0.97}.get(method, 1.0)
    return made(
        "quality", method, budget,
        setup={"tasks": dict.fromkeys(levels, items), "task_batch": 64, "text": text, "windows": windows, "seed": 0},
        metrics=metrics, spent={"per_token": budget * off},
        samples={"nll": nll.tolist(), "window_tokens": [255] * windows, "tasks": tasks},
        details={**planned(method, budget), "groups": GROUPS, "chance": levels},
    )  # fmt: skip


def decoded(method: str, budget: int, experts: float) -> Record:
    """The quality of a plan as if decoding, each layer touching so many experts a step."""
    one = quality(method, budget)
    setup = {**one.setup, "text_batch": 8, "passes": "decode"}
    return replace(one, setup=setup, spent={**one.spent, "distinct_per_layer": [experts - 1, experts + 1]})


def speed(method: str, budget: int) -> Record:
    """The plan of `quality` timed on the model itself."""
    share, rng, runs = budget / WHOLE, np.random.default_rng([7, list(METHODS).index(method), budget]), SETUP["runs"]
    rounds = np.random.default_rng(5).normal(0, 0.05, runs)
    token_cost = 0.06 if METHODS[method].token_rule != "top_k" else 0.0
    prefill = 0.05 * (0.9 + 0.1 * share + token_cost) * np.exp(rounds + rng.normal(0, 0.02, runs))
    decode = 1.5 * (0.45 + 0.55 * share + token_cost) * np.exp(rounds + rng.normal(0, 0.01, runs))
    medians = {"prefill_ms": 1e3 * float(np.median(prefill)), "decode_ms": 1e3 * float(np.median(decode))}
    samples = {"prefill_s": prefill.tolist(), "decode_s": decode.tolist()}
    details = planned(method, budget)
    return made("speed", method, budget, setup=SETUP, metrics=medians, samples=samples, details=details)


def onto(record: Record, model: str = "olmoe-wide (random weights)", fingerprint: str = WIDE) -> Record:
    """A speed record as if its plan had been transplanted onto a shape of random weights."""
    source = {"model": record.model, "fingerprint": record.fingerprint, "plan": record.plan}
    parts = vars(record) | {"model": model, "fingerprint": fingerprint, "plan": f"wide {record.plan}"}
    return Record(**parts | {"details": {**record.details, "transplanted": source}})


def elsewhere(record: Record) -> Record:
    """A speed record of another shape under a plan of its own, at the same share of the activations."""
    parts = vars(record) | {"model": "olmoe-small (random weights)", "fingerprint": SMALL, "plan": f"x {record.plan}"}
    return Record(**parts | {"budget": 2 * (record.budget or 0)})


def profile() -> Record:
    drop = np.linspace(1.2, 0, TOP_K)[None, :] ** 2 * np.linspace(1, 0.1, LAYERS)[:, None]
    details = {"perplexity": (9 * (1 + drop)).tolist(), "distances": (drop * 5).tolist()}
    return made("profile", None, None, setup={"text": "mini-train"}, metrics={"evaluations": 41}, details=details)


def tuned() -> Record:
    """What a search for a speedup of 1.3 wrote: two methods at three budgets, one plan measured."""
    front = [
        {"method": m, "budget": b, "speedup": 2.4 - b / WHOLE, "loss": [x * (WHOLE / b - 1), 0.0, 9.0]}
        for m, x in (("uniform", 4.0), ("alloc-moe", 2.0)) for b in BUDGETS[:3]
    ]  # fmt: skip
    measured = {"speedup": [1.31, 1.28, 1.34], "loss": [2.5, 1.9, 3.1], "prefill_speedup": [1.02, 0.99, 1.05]}
    end = {"wish": "speedup", "met": True, "method": "alloc-moe", "budget": BUDGETS[0], "measured": measured,
           "promised": {"speedup": 1.33, "loss": 2.2}, "plan": "plan.json"}  # fmt: skip
    document = {
        "met": True,
        "measured": measured,
        "asked": "1.3x faster",
        "batch": 8,
        "metric": "perplexity",
        "prediction_error": 0.04,
        "ends": [end],
    }
    return made(
        "tune", "alloc-moe", BUDGETS[0], setup={"engine": "vllm", "timed": "olmoe-wide"},
        details={"document": document, "front": front, "speedup": 1.3, "most": None},
    )  # fmt: skip


def sweep() -> list[Record]:
    """Quality of all plans on a mini, their speed transplanted onto a wide shape, and the profile."""
    return [quality(*p) for p in plans()] + [onto(speed(*p)) for p in plans()] + [profile()]


def committed() -> list[Record]:
    """Perplexities of one plan at two commits."""
    at = [
        {**ENVIRONMENT, "commit": {"hash": f"{n}" * 40, "date": f"2026-01-0{n}T00:00:00+00:00", "dirty": False}}
        for n in (1, 2)
    ]
    return [Record(**vars(quality(*p)) | {"environment": e}) for e in at for p in plans("uniform")]


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.ids = [a["id"] for _, a in self.tags if a.get("id")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def unpacked(text: str, name: str) -> str:
    (found,) = re.findall(rf'<script type="text/plain" id="{name}">(.*?)</script>', text, re.DOTALL)
    return gzip.decompress(base64.b64decode(found, validate=True)).decode()


def embedded(text: str, name: str) -> list[dict]:
    return json.loads(unpacked(text, name))


def drawn(text: str, kind: str | None = None) -> list[dict]:
    return [trace for figure in embedded(text, "figures") for trace in figure["data"] if kind in (None, trace["type"])]


def said(text: str, section: str) -> str:
    """The words of a section on one line, tags removed."""
    part = text.split(f'<section id="{section}">')[1].split("</section>")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", part)).split())


def one(rows: list, method: str, budget: int) -> Any:
    return next(r for r in rows if (r.method, r.budget) == (method, budget))
