"""Small records that documents quote in tests, and the plain arithmetic on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any

from allocmoe.evaluate.tasks.table import EMBEDDED
from allocmoe.records import Record
from allocmoe.report.compare import Comparison, comparisons
from allocmoe.report.groups import groups
from allocmoe.report.prose import Sources, fill
from allocmoe.report.style import TIMES
from tests.report import analysed
from tests.report.made import BUDGETS, GROUPS, WHOLE, decoded, made, onto, plans, profile, quality, speed, tuned

MODELS = ("mini-olmoe", "mini-qwen")
NAMES = ("uniform", "alloc-l", "alloc-t", "alloc-moe")
COUNTS = {"uniform": (36, 32, 28, 24), "oea": (36.5, 32.5, 28.5, 24.5), "alloc-moe-refill": (35, 31, 27, 22)}
NLL, TASKS = {"nll": [1.0, 2.0], "window_tokens": [3, 1]}, {t: i / 10 for i, t in enumerate(EMBEDDED)}


def two_models() -> list[Record]:
    """The made sweep, and the same with losses shifted a little by method: another order of methods."""
    first = [quality(*p) for p in plans(*NAMES)]
    second = []
    for r in first:
        nll = [v + 0.02 * len(r.method or "") for v in r.samples["nll"]]
        moved = {**r.samples, "nll": nll}
        metrics = {**r.metrics, "perplexity": math.exp(fmean(nll))}
        second.append(replace(r, model=MODELS[1], fingerprint="e" * 16, samples=moved, metrics=metrics))
    return first + second


def tasked(model: str, method: str, budget: int) -> Record:
    metrics = {"perplexity": 5.0 + len(method), "group/mean": 0.5} | {f"acc/{t}": v for t, v in TASKS.items()}
    return made("quality", method, budget, setup={}, model=model, metrics=metrics, details={"original_budget": 8})


def asked(engine: str, method: str, boolq: list[int], truthful: list[float]) -> Record:
    tasks = {"boolq": {"ids": [0, 1, 2, 3], "correct": boolq}, "truthfulqa_mc2": {"ids": [0, 5], "score": truthful}}
    return made(
        "quality", method, 8, setup={"engine": engine}, metrics={"perplexity": 5.0}, samples={**NLL, "tasks": tasks}
    )  # fmt: skip


def simulated(sessions: int, rounds: int) -> Record:
    shares = {f"{w}/{sessions}/{v}": 0.125 for w in ("nothing", "slower", "less_accurate")
              for v in ("regressed", "unmeasured")}  # fmt: skip
    setup = {"sessions": [sessions], "slowdown": 1.03, "margins": {"decode": 3.0}}
    return made("gate", None, None, setup=setup, metrics=shares, details={"rounds": rounds})


def beside(model: str, text: str, rise: float) -> Record:
    trained = {"minutes": 16.01, "tokens": 7_567_360}
    nll = [v + rise for v in NLL["nll"]]
    perplexity = math.exp((3 * nll[0] + nll[1]) / 4)
    return made(
        "quality", None, None, model=model, setup={"text": text}, samples={**NLL, "nll": nll},
        metrics={"perplexity": perplexity, "group/mean": 0.5}, details={"parameters": 3_739_712, "trained": trained},
    )  # fmt: skip


def step(method: str, budget: int, experts: float, rise: float, **setup: int) -> Record:
    """A plan of mini-olmoe's shape, 16 layers of 8 experts, as if decoding; some windows lose more than others."""
    nll = [1.5 + 0.1 * i + rise * (1 + 0.1 * (i % 3)) for i in range(8)]
    return made(
        "quality", method, budget, setup={"text_batch": 8, **setup, "passes": "decode"},
        metrics={"perplexity": math.exp(fmean(nll))}, samples={"nll": nll, "window_tokens": [255] * 8},
        spent={"per_token": budget, "distinct_per_layer": [experts - 2, experts + 2]},
        details={"layers": [budget / 16] * 16, "original_budget": 128, "origin": {}},
    )  # fmt: skip


def lines() -> list[Record]:
    """Where uniform loses most and the refilled Alloc-MoE least, but for the first budget, where it loses more."""
    rises = {
        "uniform": (0.02, 0.05, 0.1, 0.2),
        "oea": (0.01, 0.03, 0.06, 0.1),
        "alloc-moe-refill": (0.04, 0.01, 0.02, 0.04),
    }
    found = [step("original", 128, 40, 0.0)]
    for method, counts in COUNTS.items():
        found += [step(method, *row) for row in zip((112, 96, 80, 64), counts, rises[method], strict=True)]
    rise = {("original", 128): 0.0} | {
        (m, b): r for m in rises for b, r in zip((112, 96, 80, 64), rises[m], strict=True)
    }
    return [
        replace(r, samples={**r.samples, "kl": [rise[str(r.method), r.budget or 0]] * len(r.samples["nll"])})
        for r in found
    ]


def at_sizes() -> list[Record]:
    """Uniform, and a plan for each of two batch sizes, one of which was measured at the other size too."""
    found = []
    for size, whole in ((8, 40), (32, 60)):
        found += [
            step("original", 128, whole, 0.0, text_batch=size),
            step("uniform", 64, whole / 2, 0.1, text_batch=size),
        ]
        for made_for in {8, size}:
            plan = step("alloc-d", 64, whole / 2 - made_for / 8, 0.05 + made_for / 1000, text_batch=size)
            found.append(replace(plan, plan=f"for {made_for}", details={**plan.details, "origin": {"batch": made_for}}))
    return found


def priced(expert: float) -> Record:
    metrics = {"distinct_ms": expert, "pair_ms": 0.01, "step_ms/8": 30.0, "rule_ms/refill": 2.0,
               "rule_ms/alloc_t_refill": 4.0, "held_out_error": 0.03}  # fmt: skip
    near = {"distinct_ms": 0.05, "pair_ms": 0.01, "step_ms/8": 1.0, "rule_ms/refill": 1.0}
    intervals = {name: [metrics[name] - by, metrics[name] + by] for name, by in near.items()}
    return made(
        "cost", None, None, plan=None, model=WIDE_NAME, setup={"batch": [8]}, metrics=metrics,
        details={"intervals": intervals, "points": []},
    )  # fmt: skip


def timed() -> list[Record]:
    """The plans of `lines`, moved to the wide shape and timed in one session."""
    rules = {"oea": "refill", "alloc-moe-refill": "alloc_t_refill"}
    found = []
    for number, r in enumerate(lines()):
        spent = {"per_layer": [r.budget / 16, r.budget / 16], "distinct_per_layer": r.spent["distinct_per_layer"]}
        samples = {f"{p}_s": [(2 - number / 20) * (1 + 0.01 * i) for i in range(4)] for p in ("prefill", "decode")}
        details = {**r.details, "token_rule": rules.get(str(r.method), "top_k")}
        record = made(
            "speed", r.method, r.budget, plan=r.plan, setup={"engine": "vllm", "batch": 8, "session": "one"},
            samples=samples, spent={"decode": spent}, details=details,
        )  # fmt: skip
        found.append(onto(record))
    return found


def routed() -> Record:
    metrics = {"decode/identity": 1.004, "prefill/identity": 0.998, "decode/routing/alloc-t": 0.012,
               "prefill/routing/alloc-t": 0.002, "decode/equal/alloc-t": 0.02}  # fmt: skip
    return made(
        "routing", None, 64, plan=None, model=WIDE_NAME, setup={"dtype": "bfloat16"}, metrics=metrics,
        details={"intervals": {name: [value - 0.001, value + 0.002] for name, value in metrics.items()}},
    )  # fmt: skip


def diverging(method: str, budget: int, kl: float) -> Record:
    """A plan of the made sweep with a divergence, the same in every window but for a hundredth."""
    one = quality(method, budget)
    each = [kl * (1 + (0.01 if i % 2 else -0.01)) for i in range(len(one.samples["nll"]))]
    return replace(one, metrics={**one.metrics, "kl": kl}, samples={**one.samples, "kl": each})


def answered(method: str = "original", **tasks: tuple[int, int]) -> Record:
    """So many right of so many items."""
    found = {t: {"ids": list(range(n)), "correct": [1] * k + [0] * (n - k)} for t, (k, n) in tasks.items()}
    return made("quality", method, 8, setup={}, samples={"tasks": found})


def allocated() -> Record:
    names = ("algorithm 1", "one pass", "the mean")
    metrics = {f"over/{name}": over for name, over in zip(names, (1.0, 20.04, 9e9), strict=True)}
    values = {f"{name}/{b}": 0.1 * (1 + i) / b for i, name in enumerate(names) for b in (8, 16)}
    values["one pass/16"] = 0.003
    return several(values, {"compared": list(names)}, metrics)


def several(
    values: Mapping[str, float], setup: Mapping[str, Any], metrics: Mapping[str, float] | None = None
) -> Record:
    """KL divergences of several plans, the same in every window but for those of "new" plans."""
    wobble = {name: (0.5, -0.5) if name.startswith("new") else (0.0, 0.0) for name in values}
    samples: dict[str, Any] = {f"kl/{name}": [v + d for d in wobble[name]] for name, v in values.items()}
    samples["window_tokens"] = [15, 15]
    found = {f"kl/{name}": v for name, v in values.items()} | dict(metrics or {})
    return made("analysis", None, None, plan=None, setup=dict(setup), metrics=found, samples=samples)


WIDE_NAME = "olmoe-wide (random weights)"
PRICES, TIMED = [priced(0.5), priced(0.25)], timed()
FILES = {
    "prices": PRICES[-1:],
    "routed": [routed()],
    "pairs": TIMED,
    "wishes": [tuned()],
    "made": two_models() + [replace(profile(), model=m) for m in MODELS],
    "timed": [replace(r, setup={**r.setup, "dtype": "float32"}) for r in (onto(speed(*p)) for p in plans(*NAMES))],
    "engines": [
        asked("transformers", "uniform", [1, 0, 1, 1], [0.25, 0.75]),
        asked("vllm", "uniform", [1, 0, 0, 1], [0.2504, 0.76]),
        asked("vllm", "original", [1, 1, 1, 1], [1.0, 1.0]),
    ],
    "tasked": [tasked("mini-olmoe", "original", 8), tasked("mini-olmoe", "uniform", 4)],
    "pruned": [  # the best of them spends all that the model has
        replace(tasked("mini-olmoe", m, b), spent={"per_token": spent})
        for m, b, spent in (("original", 8, 8), ("reap", 4, 8), ("alloc-l", 4, 4.05), ("alloc-moe", 4, 4))
    ],
    "decoded": [decoded(*p, 10 + i) for i, p in enumerate(plans("alloc-moe"))],
    "lines": lines(),
    "diverging": [diverging("original", WHOLE, 0.0)] + [
        diverging(m, b, kl) for b in BUDGETS for m, kl in (("alloc-moe", 0.04), ("alloc-t", 0.05 if b > 16 else 0.04))
    ],
    "allocated": [allocated()],
    "asked": [answered(piqa=(60, 80), hellaswag=(20, 80)), made("profile", None, None, plan=None, setup={})],
    "few": [answered(piqa=(2, 4), bbh=(1, 4), gsm8k=(0, 28)), answered("uniform", boolq=(4, 4))],
    "distilled": [made("training", None, None, plan=None, setup={}, details={"curve": [
        {"stage": "dense", "valid": 23.312}, {"stage": "distil", "minutes": 5.08, "tokens": 35840, "valid": 33.08},
    ]})],
    "copied": [several({"old/alloc-l/8": 0.25, "new/alloc-l/8": 0.125}, {"copy": "4 bits"})],
    "rescaled": [several({"none/8": 0.25, "layer/8": 0.125, "channel/8": 0.125}, {})],
    "studied": [*analysed.methods(), *analysed.k_base(), *analysed.calibration(), *analysed.loads(), *analysed.kept(),
                *analysed.batches(), *analysed.strangers()],
    "sizes": at_sizes(),
    "gate": [simulated(8, 40), simulated(20, 10)],
    "injected": [made("gate", None, None, setup={}, details={
        "one-more": {"exit": 1, "faulty": "a", "named": ["a"]}, "none-at-all": {"exit": 2, "faulty": "a", "named": []},
    })],
    "history": [made("history", None, None, setup={}, samples={"rows": [
        {"kind": kind, "detector": detector, "length": length, "false_alarms": 0.006, "missed": 0.25}
        for kind in ("no change", "3 %") for detector in ("asv", "largest t") for length in (10, 20)
    ]})],
    "dense": [beside("mini-olmoe", "own", 0.0), beside("dense", "own", -0.1), beside("mini-olmoe", "real", 1.0),
              beside("dense", "real", 1.1)],
}  # fmt: skip


def value(kind: str, call: str, sources: Sources) -> str:
    text = fill(f"before <!--{kind} {call}-->old<!--/{kind}--> after", sources)
    assert text.startswith(f"before <!--{kind} {call}-->")
    assert text.endswith(f"<!--/{kind}--> after")
    return text.split("-->", 1)[1].rsplit("<!--", 1)[0]


def rows(name: str, call: str, sources: Sources) -> list[list[str]]:
    """The cells of a table, its head first."""
    found = value("table", f"{name} {call}".strip(), sources).strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found if not line.startswith("| ---")]


def of(model: str, method: str, budget: int) -> Record:
    budget = WHOLE if method == "original" else budget
    (found,) = [r for r in FILES["made"] if (r.model, r.method, r.budget) == (model, method, budget)]
    return found


def ppl(model: str, method: str, budget: int) -> float:
    """From the samples: all windows have as many tokens."""
    return math.exp(fmean(of(model, method, budget).samples["nll"]))


def rise(model: str, method: str, budget: int, other: str = "original") -> str:
    return f"{100 * (ppl(model, method, budget) / ppl(model, other, budget) - 1):.1f} %"


def mean(model: str, method: str, budget: int) -> float:
    tasks = of(model, method, budget).samples["tasks"]
    return fmean(fmean(fmean(tasks[t]["correct"]) for t in names) for names in GROUPS.values())


def least(model: str, budget: int) -> str:
    return min(NAMES, key=lambda m: ppl(model, m, budget))


def timed(method: str, budget: int, phase: str, other: str = "original") -> str:
    mine, theirs = (
        next(r for r in FILES["timed"] if r.method == m and (r.budget == budget or m == "original"))
        for m in (method, other)
    )
    pairs = zip(theirs.samples[f"{phase}_s"], mine.samples[f"{phase}_s"], strict=True)
    return f"{math.exp(fmean(math.log(a / b) for a, b in pairs)):.2f}{TIMES}"


def wins() -> Counter[str]:
    return Counter(least(m, b) for m in MODELS for b in BUDGETS)


def verdicts(method: str, other: str, metric: str, verdict: str) -> int:
    return sum(c.other == other and getattr(c, metric) == verdict for c in compared(method))


@cache
def compared(method: str) -> list[Comparison]:
    return [c for g in groups(FILES["made"], "quality") for c in comparisons(g, method)]


CODE = """\
TABLE = {
    "a": 1,
    "b": 2,
}


def half(x):
    return x / 2
"""
