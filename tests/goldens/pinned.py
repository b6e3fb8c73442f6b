"""What must not change by accident: plans, routing, the gate, the history and the report's tables.

    python -m tests.goldens.pinned        # writes pinned.json anew: only where a change is wanted

The profiles beside this file are of version 1, made from eight windows, so they show too that such files still load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from allocmoe import documents, gate, history, mini, records, report
from allocmoe.engines.planned import PlannedLayer
from allocmoe.methods import allocate
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.spec import MoESpec
from tests.gate.measured import measured, slower
from tests.history.past import past

HERE = Path(__file__).parent
MODELS = ("mini-olmoe", "mini-qwen", "mini-deepseek")
METHODS = (
    "original", "uniform", "ascending", "descending", "lexi", "alloc-l", "dynamic-moe", "naee", "alloc-t", "alloc-moe",
)  # fmt: skip


def everything() -> dict[str, Any]:
    return {"plans": plans(), "routing": routing(), "gate": gates(), "history": histories(), "report": tables()}


def made(model: str, method: str, budget: float, **options: Any) -> Plan:
    folder = mini.resolve(model)
    known = Sensitivity.load(HERE / "profiles" / f"{model}.json")
    return allocate(method, MoESpec.from_folder(folder), known.fingerprint, budget, known, **options)


def plans() -> dict[str, Any]:
    """Digest, layers and numbers of every method's plan at the paper's budgets."""
    found = {}
    for model in MODELS:
        spec = MoESpec.from_folder(mini.resolve(model))
        for method in METHODS:
            for budget in [spec.original_budget] if method == "original" else spec.budgets():
                found[f"{model}/{method}/{budget}"] = told(made(model, method, budget))
    for options in ({"normalize": "raw"}, {"normalize": "log"}, {"k_base": 2}, {"reference": "survivors"}, {"seed": 3}):
        method = "lexi" if "seed" in options else "alloc-moe"
        found[f"mini-qwen/{method}/60/{json.dumps(options)}"] = told(made("mini-qwen", method, 60, **options))
    return found


def told(plan: Plan) -> dict[str, Any]:
    """A plan in a form that its file's version does not change."""
    rules = [PlannedLayer.of(plan, layer) for layer in range(len(plan.layers))]
    return {
        "digest": plan.digest,
        "layers": [float(rule.numbers["k"]) for rule in rules],
        "token_rule": plan.token_rule,
    }


def routing() -> dict[str, Any]:
    """Ids and weights of every rule on fixed candidates, ties, padding and one token among them."""
    generator = torch.Generator().manual_seed(7)
    found = {}
    for method in METHODS:
        plan = made("mini-olmoe", method, 128 if method == "original" else 80)
        for reference in ("original", "survivors"):
            for tokens, padded in ((1, False), (8, False), (40, True)):
                scores = (torch.randn(tokens, 64, generator=generator).bfloat16() * 2).float().softmax(-1)
                weights, ids = scores.topk(8, sorted=False)
                valid = torch.rand(tokens, generator=generator) < 0.8 if padded else None
                for layer in (0, 7, 15):
                    rule = PlannedLayer.of(made("mini-olmoe", method, plan.budget, reference=reference), layer, -1)
                    kept, chosen = rule(weights, ids, valid)
                    pairs = [
                        sorted((i, round(w, 6)) for i, w in zip(*row, strict=True) if i >= 0)
                        for row in zip(chosen.tolist(), kept.tolist(), strict=True)
                    ]
                    found[f"{method}/{reference}/{tokens}/{layer}"] = documents.digest(pairs)
    return found


def gates() -> dict[str, Any]:
    """Verdicts but for accuracy, whose definition changed with version 2 of the records."""
    small = records.load(HERE / "records" / "small.jsonl")
    known = {
        "alike": gate.compare(measured(1), measured(0)),
        "slower": gate.compare(slower(measured(1), 1.2), measured(0)),
        "noisy": gate.compare(measured(1, sessions=2, noise=0.2), measured(0, noise=0.2)),
        "committed": gate.compare(small, small),
    }
    return {
        name: {
            row.name: [row.verdict, *(f"{v:.6g}" for v in (row.old, row.new, row.change, row.low, row.high, row.p))]
            for row in found.rows
            if row.key.metric != "accuracy"
        }
        for name, found in known.items()
    }


def histories() -> dict[str, Any]:
    found = history.series(past())
    return {
        "series": {
            f"{s.label}/{s.method}/{s.budget}/{s.metric}": documents.digest([f"{v:.8g}" for v in s.values])
            for s in found
        },
        "changes": [f"{c.commit.short} {c.direction} {history.words(c)}" for c in history.changes(found)],
    }


def tables() -> dict[str, Any]:
    """The report's numbers, by group: a digest of its rows, and the first of them to look at."""
    found = {}
    for name in ("embedded", "vllm-olmoe-small"):
        told = report.summary(records.load(HERE / "records" / f"{name}.jsonl"))
        for about, groups in told.items():
            for group in groups:
                rows = rounded(group["results"])
                found[f"{name}/{about}/{group['label']}"] = {"digest": documents.digest(rows), "first": rows[0]}
    return found


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


if __name__ == "__main__":
    (HERE / "pinned.json").write_text(json.dumps(everything(), indent=1) + "\n")
