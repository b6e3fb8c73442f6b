"""Passes to try a fused form on, and the reference's answer to them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.routing import RULES, Scoring

SIZES = (1, 1, 2, 3, 5, 8, 8, 8, 16, 33)
EXPERTS = (8, 16, 60, 64, 64, 128, 160, 256, 384, 512)
PREFIX = ("top_k", "alloc_t", "top_p", "naee", "adapmoe", "xmoe")
BEYOND = ("refill", "alloc_t_refill", "cap", "prune")
assert {*PREFIX, *BEYOND} == set(RULES), "a rule without cases"


@dataclass(frozen=True)
class Case:
    """One pass of one layer: see `PlannedLayer`."""

    rule: str
    numbers: dict[str, Any]
    scoring: Scoring
    weights: Tensor
    ids: Tensor
    valid: Tensor | None
    logits: Tensor

    def layer(self, fused: Any = None) -> PlannedLayer:
        top = self.ids.shape[1]
        return PlannedLayer(RULES[self.rule], self.numbers, top, -1, "original", self.scoring, fused)

    def answer(self, fused: Any = None) -> tuple[Tensor, Tensor]:
        return self.layer(fused)(self.weights, self.ids, self.valid, self.logits)

    def __str__(self) -> str:
        tokens, top = self.ids.shape
        pads = "no padding" if self.valid is None else f"{int(self.valid.sum())} real"
        return f"{self.rule} {self.numbers}, {tokens} tokens, K {top} of {self.logits.shape[1]}, {pads}, {self.scoring}"


def cases(count: int, seed: int, rules: tuple[str, ...] = (*PREFIX, *BEYOND)) -> Iterator[Case]:
    """Random passes: ties, zeros, rounded scores, padding, all sizes; the same for a seed."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield _case(rng, generator, rng.choice(rules))


def _case(rng: random.Random, generator: torch.Generator, rule: str) -> Case:
    tokens, experts = rng.choice(SIZES), rng.choice(EXPERTS)
    top = rng.randint(1, min(16, experts))
    logits = torch.randn(tokens, experts, generator=generator) * rng.choice([0.5, 1.5, 4.0])
    kind = rng.randrange(5)
    if kind == 0:  # ties of whole experts: sums over a pass tie too, and exactly
        logits = logits[:, torch.randint(experts, (experts,), generator=generator)]
    elif kind == 1 and rule != "cap":
        logits = logits.round()
    elif kind == 2:
        logits = logits.bfloat16().float()
    scoring = Scoring(rng.choice(["softmax", "softmax", "sigmoid"]), rng.random() < 0.3, rng.choice([1.0, 1.0, 2.5]))
    scoring = Scoring() if rule == "prune" else scoring
    scores = logits.softmax(-1) if scoring.function == "softmax" else logits.sigmoid()
    order = logits.sort(dim=-1, descending=True, stable=True).indices[:, :top]
    weights = scores.gather(-1, order)
    if scoring.renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    weights = weights * scoring.scale
    if kind == 3 and rule in PREFIX:  # zeros of both signs, and ties within and between tokens
        weights = (weights / weights.max() * 4).round() / 4 * rng.choice([1.0, -1.0 if rule == "alloc_t" else 1.0])
    shuffled = torch.rand(tokens, top, generator=generator).argsort(-1)  # routers give no order
    valid = torch.rand(tokens, generator=generator) < rng.choice([0.0, 0.6, 0.9]) if rng.random() < 0.6 else None
    return Case(
        rule, _numbers(rng, rule, top, experts, tokens), scoring, weights.gather(-1, shuffled),
        order.gather(-1, shuffled).int(), valid, logits,
    )  # fmt: skip


def _numbers(rng: random.Random, rule: str, top: int, experts: int, tokens: int) -> dict[str, Any]:
    k = float(rng.randint(1, top))
    if not RULES[rule].whole:
        k = rng.choice([k, k, rng.uniform(0, top), float(top), 0.0])
    few = {"pairs": rng.randint(1, top), "refill_tokens": rng.choice([64, 64, tokens // 2])}
    stay = [1] * top + [rng.randint(0, 1) for _ in range(experts - top)]
    own: dict[str, dict[str, Any]] = {
        "alloc_t": {"k_base": rng.randint(0, 3)},
        "top_p": {"threshold": rng.choice([-1.0, 0.25, 0.5, rng.random(), 3e38])},
        "xmoe": {"threshold": rng.random()},
        "naee": {"threshold": rng.choice([0.0, 0.5, rng.random(), 2.0])},
        "adapmoe": {"threshold": rng.choice([-1.0, 0.25, rng.random() / 8]), "fisher": rng.choice([0.0, 1.0, 0.37])},
        "refill": few,
        "alloc_t_refill": {"k_base": rng.randint(0, 2), **few},
        "cap": {"experts": rng.randint(1, experts), **few},
        "prune": {"kept": torch.tensor(rng.sample(stay, experts), dtype=torch.float64)},
    }
    return {"k": k, **own.get(rule, {})}


def differs(case: Case, found: tuple[Tensor, Tensor]) -> str:
    """What is wrong with an answer, "" for nothing. Rules that keep first candidates must give the reference's very
    tensors; others the same pairs, and weights that come from the logits may be off by rounding."""
    expected = case.answer()
    if case.rule in PREFIX:
        return "" if all(map(torch.equal, expected, found)) else f"{found} instead of {expected}"
    for t, (row, same) in enumerate(zip(_pairs(*found), _pairs(*expected), strict=True)):
        if row.keys() != same.keys():
            return f"token {t} has experts {sorted(row)} instead of {sorted(same)}"
        if off := [e for e in row if abs(row[e] - same[e]) > 2e-6 * abs(same[e]) + 1e-30]:
            return f"token {t} has the weights {[row[e] for e in off]} instead of {[same[e] for e in off]}"
    return ""


def _pairs(weights: Tensor, ids: Tensor) -> list[dict[int, float]]:
    rows = zip(weights.tolist(), ids.tolist(), strict=True)
    return [{e: w for w, e in zip(*row, strict=True) if e >= 0} for row in rows]
