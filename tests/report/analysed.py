"""Made-up records of analyses on the routing shape of the paper's DeepSeek, 26 layers of 6 experts out of 64."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from allocmoe.analyses import entropy, load
from allocmoe.records import Record
from tests.report.made import made

LAYERS, TOP_K, EXPERTS, WHOLE = 26, 6, 64, 156
BUDGETS = (130, 104, 78, 52)
SETUP = {"text": "generated stories", "windows": 16, "text_batch": 8, "seed": 0}
GROUPS = {"nlu": ["mini_agree"], "math": ["mini_add"]}
MODEL = {"model": "mini-deepseek", "fingerprint": "d" * 16}
LABEL = "mini-deepseek · generated stories"
METHODS = ("uniform", "ascending", "lexi", "alloc-l", "naee", "alloc-t", "alloc-moe")


def measured(method: str, budget: int, plan: str, rise: float, right: int = 30, analysis: str = "") -> Record:
    """Quality of a plan that loses so many nats in every second window and more in the others, with 40 items a task, of
    which so many are right."""
    nll = [1.5 + 0.01 * i + rise * (1 + i % 2) for i in range(16)]
    tasks = {t: {"ids": list(range(40)), "correct": [int(i < right) for i in range(40)]}
             for ts in GROUPS.values() for t in ts}  # fmt: skip
    metrics = {"perplexity": math.exp(fmean(nll)), "group/mean": right / 40, "group/nlu": right / 40}
    return made(
        "analysis" if analysis else "quality", method, budget, plan=plan, **MODEL,
        setup={**SETUP, "tasks": dict.fromkeys(tasks, 40)} | ({"analysis": {"name": analysis}} if analysis else {}),
        metrics=metrics, spent={"per_token": budget},
        samples={"nll": nll, "window_tokens": [255] * 16, "tasks": tasks},
        details={"layers": [budget / LAYERS] * LAYERS, "original_budget": WHOLE, "share": budget / WHOLE,
                 "groups": GROUPS, "origin": {}},
    )  # fmt: skip


def methods() -> list[Record]:
    """Each method loses the more the further left it stands in METHODS, and the more the smaller the budget."""
    found = [measured("original", WHOLE, "whole", 0.0, 36)]
    for place, method in enumerate(METHODS):
        for number, budget in enumerate(BUDGETS, start=1):
            found.append(measured(method, budget, f"{method}-{budget}", 0.01 * number * (8 - place), 34 - number))
    return found


def table(name: str, rows: dict[str, dict[int, str]], **details: Any) -> Record:
    placed = {row: {str(b): plan for b, plan in places.items()} for row, places in rows.items()}
    tasks = {"tasks": {"mini_agree": 40, "mini_add": 40}}
    told = {"rows": placed, "original_budget": WHOLE, "shape": [LAYERS, TOP_K], **details}
    setup = {**SETUP, **tasks, "analysis": {"name": name, "rows": "x"}}
    return made("analysis", None, None, plan=None, **MODEL, setup=setup, details=told)


def k_base() -> list[Record]:
    """k_base 0 and 2 beside the alloc-t and uniform of `methods`; 5 equals uniform."""
    rows = {
        "0": {b: f"k0-{b}" for b in BUDGETS},
        "1": {b: f"alloc-t-{b}" for b in BUDGETS},
        "5": {b: f"uniform-{b}" for b in BUDGETS},
    }
    own = [
        measured("alloc-t", b, f"k0-{b}", 0.005 * (i + 1), 35 - i, "k_base") for i, b in enumerate(BUDGETS)
    ]  # fmt: skip
    return [*own, table("k_base", rows)]


def calibration() -> list[Record]:
    """The usual text, and another which moves 13 of 52 and 13 of 78 activations."""
    first = {"52": [2.0] * 26, "78": [3.0] * 26}
    other = {"52": [3.0, 1.0] * 13, "78": [4.0, 2.0] * 13}
    rows = {
        "usual, 4 windows": {52: "alloc-l-52", 78: "alloc-l-78"},
        "other, 2 windows": {52: "other-52", 78: "other-78"},
    }
    own = [measured("alloc-l", b, f"other-{b}", 0.02, 30, "calibration") for b in (52, 78)]
    return [*own, table("calibration", rows, layers={"usual, 4 windows": first, "other, 2 windows": other})]


def loads() -> list[Record]:
    """Of the unchanged model, and of two plans at half with a little noise; the last layer's load is even."""
    rng = np.random.default_rng(3)
    before = rng.integers(50, 500, (LAYERS, EXPERTS))
    before[-1] = 100
    found = []
    for method, budget, noise in (("original", WHOLE, 0.0), ("uniform", 78, 0.4), ("alloc-moe", 78, 0.1)):
        counts = (before * (budget / WHOLE) * np.exp(noise * rng.normal(size=before.shape))).astype(int)
        counts[-1] = 100
        samples = {"activations": counts.tolist(), "weights": (0.1 * counts).tolist()}
        whole = found[0].samples if found else samples
        found.append(made(
            "analysis", method, budget, **MODEL, setup={**SETUP, "analysis": {"name": "load"}}, samples=samples,
            metrics=load.summary(load.statistics(whole, samples)),
            details={"original_budget": WHOLE, "layers": [budget / LAYERS] * LAYERS},
        ))  # fmt: skip
    return found


def kept() -> list[Record]:
    """Tokens that keep more where their entropy is higher, and that of their candidates lower; in the first layer all
    keep six."""
    rng = np.random.default_rng(4)
    values = rng.uniform(0.2, 0.9, (LAYERS, 300))
    numbers = np.clip((6 * values + rng.normal(0, 0.4, values.shape)).astype(int), 0, TOP_K)
    numbers[0] = 6
    samples: dict[str, Any] = {"kept": numbers.mean(1).tolist()}
    for kind, seen in zip(entropy.KINDS, (values, 1 - values), strict=True):
        samples[kind] = {**entropy.correlations(seen, numbers), **entropy.binned(seen, numbers, TOP_K)}
    known = [v for v in samples["experts"]["pearson"] if v is not None]
    return [made(
        "analysis", "alloc-t", 78, **MODEL, setup={**SETUP, "analysis": {"name": "entropy"}}, samples=samples,
        metrics={"experts_pearson_least": min(known), "layers_that_vary": 25.0},
        details={"original_budget": WHOLE, "layers": [3.0] * LAYERS},
    )]  # fmt: skip


def batches() -> list[Record]:
    """Alloc-T loses less the more windows share a pass; in another order two windows move by 0.02."""
    found = []
    for size in (1, 8):
        for order in (0, 1) if size == 8 else (0,):
            for method, rise in (("original", 0.0), ("alloc-t", 0.08 / size)):
                nll = [1.5 + 0.01 * i + rise for i in range(4)]
                if order and method != "original":
                    nll = [nll[0] + 0.02, nll[1] - 0.02, *nll[2:]]
                setup = {**SETUP, "text_batch": size, "analysis": {"name": "batch", "order": order}}
                found.append(made(
                    "analysis", method, 78 if rise else WHOLE, plan=method, **MODEL, setup=setup,
                    metrics={"perplexity": math.exp(fmean(nll))}, samples={"nll": nll, "window_tokens": [255] * 4},
                    details={"original_budget": WHOLE},
                ))  # fmt: skip
    return found


def strangers() -> list[Record]:
    """Under Alloc-T neighbours of flat routing move an answer most; with a threshold nothing does."""
    return [
        made(
            "analysis", method, 78, plan=method, **MODEL,
            setup={**SETUP, "analysis": {"name": "neighbours", "beside": kind, "victims": 2}},
            metrics={"kl": kl, "kl_most": 10 * kl, "flips": kl}, samples={"kl": [kl] * 2, "window_tokens": [255] * 2},
            details={"original_budget": WHOLE},
        )
        for method, flat, peaked in (("alloc-t", 0.02, 0.01), ("alloc-moe-causal", 0.0, 0.0))
        for kind, kl in (("flat", flat), ("peaked", peaked))
    ]  # fmt: skip


def seeds() -> list[Record]:
    """`methods` as another seed of the model has it, where the first of them leads."""
    found = []
    for r in methods():
        places = [*METHODS, "original"]
        sign = {"original": 0.0}.get(str(r.method), 0.01 * (1 + places.index(str(r.method))))
        nll = [1.4 + 0.01 * i + sign for i in range(16)]
        found.append(replace(
            r, model="mini-deepseek-seed-1", fingerprint="e" * 16, samples={**r.samples, "nll": nll},
            metrics={**r.metrics, "perplexity": math.exp(fmean(nll))},
        ))  # fmt: skip
    return found


def analysed() -> list[Record]:
    """All of them."""
    return [*methods(), *k_base(), *calibration(), *loads(), *kept(), *batches(), *strangers(), *seeds()]
