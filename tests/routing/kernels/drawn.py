"""Passes to try kernels on, drawn from a seed: ties, zeros of both signs, NaN, padding, rounded scores, every rule."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.routing import RULES, Scoring
from allocmoe.routing.scores import PLAIN

PREFIX = ("top_k", "alloc_t", "top_p", "naee", "adapmoe", "xmoe", "threshold")
LOGITS = ("refill", "alloc_t_refill", "cap", "prune")
EXPERTS = (60, 64, 160, 256, 512)


@dataclass(frozen=True)
class Pass:
    """One layer's rule and what a router offers it in one pass."""

    rule: str
    numbers: dict[str, Any]
    weights: Tensor
    ids: Tensor
    valid: Tensor | None
    dropped: int
    logits: Tensor | None = None
    scoring: Scoring = PLAIN

    def reference(self) -> tuple[Tensor, Tensor]:
        layer = PlannedLayer(RULES[self.rule], self.numbers, self.ids.shape[1], self.dropped, scoring=self.scoring)
        return layer(self.weights, self.ids, self.valid, self.logits)

    def other(self, rule: str, **numbers: Any) -> Pass:
        """The same candidates under another rule."""
        return replace(self, rule=rule, numbers=self.numbers | numbers)


def padding(draw: random.Random, T: int) -> Tensor | None:
    kind = draw.choice(["none", "some", "some", "tail", "all", "no row"])
    if kind == "none":
        return None
    if kind == "tail":  # as engines pad
        return torch.arange(T) < draw.randint(0, T)
    share = {"some": draw.random(), "all": 0.0, "no row": 1.0}[kind]
    return torch.tensor([draw.random() < share for _ in range(T)])


def scores(draw: random.Random, T: int, K: int) -> Tensor:
    """[T, K] combine weights in any order."""
    seeded = torch.Generator().manual_seed(draw.getrandbits(32))
    uniform = torch.rand(T, K, generator=seeded)
    kind = draw.choice(["uniform", "levels", "zeros", "signed zeros", "one value", "rounded", "rounded", "softmax",
                        "tiny", "some NaN", "rows of NaN"])  # fmt: skip
    made = {
        "uniform": uniform,
        "levels": (uniform * 4).round() / 4,  # ties, zeros
        "zeros": torch.where(uniform < 0.5, -0.0, 0.0),
        "signed zeros": torch.where(uniform < 0.3, -0.0, (uniform * 3).floor() / 4),
        "one value": torch.full((T, K), 0.125),
        "rounded": (uniform * 6 - 3).softmax(-1).bfloat16().float(),
        "softmax": (uniform * 20).softmax(-1),
        "tiny": uniform * 1e-40,
        "some NaN": torch.where(uniform < 0.1, torch.nan, uniform),
        "rows of NaN": torch.where(uniform[:, :1] < 0.3, torch.nan, uniform),
    }[kind]
    if draw.random() < 0.5:
        made = made.sort(dim=-1, descending=True, stable=True).values
    if kind == "tiny":  # the interpreter gets subnormal numbers of bfloat16 wrong
        return made
    return made.to(draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16]))


def threshold(draw: random.Random, weights: Tensor, rule: str) -> float:
    """Often exactly at a value that it is compared with."""
    row = weights[draw.randrange(len(weights))].float().sort(descending=True).values
    if draw.random() < 0.4:
        return draw.choice([-1.0, 0.0, 0.1, 0.3, 0.9, 1.0, 2.0, 3e38])
    place = draw.randrange(len(row))
    if rule == "naee":
        return float(row[place] / row[0])
    if rule == "threshold":
        return float(row[place])
    if rule == "adapmoe":
        return float((row[place:].sum() / row.sum()) ** 2) * 0.25
    return float(row.cumsum(0)[place])


def prefix_numbers(draw: random.Random, rule: str, weights: Tensor) -> dict[str, Any]:
    K = weights.shape[1]
    if rule == "top_k":
        return {"k": float(draw.randint(0, max(0, K - 1)))}
    numbers: dict[str, Any] = {"k": float(draw.randint(1, K))}
    if rule == "alloc_t":
        return {"k": min(float(K), draw.choice([0.0, 0.5, 1.0, 1.37, K / 2, K * 0.77, K - 1e-9, float(K)])),
                "k_base": float(draw.choice([0, 1, 2, K]))}  # fmt: skip
    value = threshold(draw, weights, rule)
    if rule == "adapmoe":
        numbers["fisher"] = draw.choice([0.25, 1.0, 0.0, 0.037])
    if rule == "threshold":
        numbers["k_base"] = float(draw.choice([0, 1, 2, K]))
    return numbers | {"threshold": value if value == value else 0.5}


def in_memory(draw: random.Random, numbers: dict[str, Any]) -> dict[str, Any]:
    """As floats, or as the tensors that a captured graph reads."""
    if draw.random() < 0.4:
        return numbers
    return {name: value if name == "norms" else torch.tensor(value, dtype=torch.float64)
            for name, value in numbers.items()}  # fmt: skip


def norms(draw: random.Random, N: int) -> Tensor:
    """Mean norms of N experts' outputs; they tie often."""
    uniform = torch.rand(N, generator=torch.Generator().manual_seed(draw.getrandbits(32)))
    return draw.choice([uniform * 3, (uniform * 3).round() / 2])


def prefix_pass(seed: int, rule: str, T: int | None = None, K: int | None = None) -> Pass:
    draw = random.Random(f"{rule} {seed}")
    T = T or draw.choice([1, 1, 2, 3, 5, 8, 16, 17, 31, 33, 64])
    K = K or draw.randint(1, 16)
    weights, N = scores(draw, T, K), draw.choice(EXPERTS)
    ids = torch.stack([torch.tensor(draw.sample(range(N), K)) for _ in range(T)])
    ids = ids.to(draw.choice([torch.int32, torch.int64]))
    chosen, own = weights, {}
    if RULES[rule].by_scores and draw.random() < 0.4:
        own["norms"] = norms(draw, N)
        chosen = weights.float() * own["norms"][ids.long()]
    numbers = in_memory(draw, prefix_numbers(draw, rule, chosen) | own)
    return Pass(rule, numbers, weights, ids, padding(draw, T), draw.choice([-1, N]))


def scoring(draw: random.Random, N: int, K: int, rule: str) -> Scoring:
    seeded = torch.Generator().manual_seed(draw.getrandbits(32))
    grouped = rule != "prune" and N in (64, 160, 256) and draw.random() < 0.3
    bias = torch.rand(N, generator=seeded) / 8 if rule != "prune" and draw.random() < 0.25 else None
    function = "softmax" if rule == "prune" else draw.choice(["softmax", "softmax", "sigmoid"])
    renormalise, scale = draw.random() < 0.5, draw.choice([1.0, 1.0, 2.5])
    groups = 8 if grouped else 1
    return Scoring(
        function, renormalise, scale, groups, max(draw.randint(1, 8), -(-K * 8 // N)) if grouped else 1, bias
    )


def logit_numbers(draw: random.Random, rule: str, T: int, N: int, K: int) -> dict[str, Any]:
    if rule == "prune":
        stays = draw.sample(range(N), draw.randint(K, N))
        return {"k": float(K), "kept": [float(e in stays) for e in range(N)]}
    numbers: dict[str, Any] = {"k": float(draw.randint(0, K)), "pairs": float(draw.randint(1, K + 1)),
                               "refill_tokens": float(draw.choice([64, 64, T, T - 1, T // 2, 0]))}  # fmt: skip
    if rule == "alloc_t_refill":
        numbers |= {"k": draw.choice([0.5, 1.0, K / 2, K * 0.77]), "k_base": float(draw.choice([0, 1, 2]))}
    return numbers | ({"experts": float(draw.choice([1, 2, K, N // 2, N]))} if rule == "cap" else {})


def logit_pass(seed: int, rule: str, T: int | None = None, K: int | None = None) -> Pass:
    draw = random.Random(f"{rule} {seed}")
    T, N = T or draw.choice([1, 1, 2, 3, 4, 6]), draw.choice(EXPERTS)
    K = K or draw.choice([1, 2, 4, 6, 8, 8, 16])
    logits = torch.randn(T, N, generator=torch.Generator().manual_seed(draw.getrandbits(32))) * 2
    how = scoring(draw, N, K, rule)
    if how.bias is None:  # levels tie often; with a bias it is rounding that would tell scores apart
        logits = draw.choice([logits, logits.bfloat16().float(), (logits * 2).round() / 2, logits.bfloat16()])
    ids, weights = routed(logits.float(), how, K)
    valid = padding(draw, T)
    if valid is not None:
        ids = ids.masked_fill(~valid[:, None], -1)
    order = torch.tensor(draw.sample(range(K), K))
    own = {"norms": norms(draw, N)} if RULES[rule].by_scores and draw.random() < 0.4 else {}
    numbers = in_memory(draw, logit_numbers(draw, rule, T, N, K) | own)
    if rule == "prune":
        numbers["kept"] = torch.as_tensor(numbers["kept"], dtype=torch.float64)
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16])
    return Pass(
        rule, numbers, weights[:, order].to(dtype), ids[:, order].int(), valid, draw.choice([-1, N]), logits, how
    )  # fmt: skip


def routed(logits: Tensor, how: Scoring, K: int) -> tuple[Tensor, Tensor]:
    """The router's own K and their weights, in float64 and from its definition."""
    raw = logits.double().softmax(-1) if how.function == "softmax" else logits.double().sigmoid()
    chosen = (logits.double() if how.bias is None else raw + how.bias).clone()
    if how.open_groups < how.groups:
        for row in chosen:
            parts = row.view(how.groups, -1)
            best = parts.sort(descending=True).values[:, : 1 if how.bias is None else 2].sum(1)
            parts[best.sort(dim=-1, descending=True, stable=True).indices[how.open_groups :]] = -torch.inf
    ids = chosen.sort(dim=-1, descending=True, stable=True).indices[:, :K]
    weights = raw.gather(1, ids)
    if how.renormalise:
        weights = weights / weights.sum(1, keepdim=True)
    return ids, (weights * how.scale).float()
