"""Rules whose numbers are in tensors, as under captured graphs, and routers to put them in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.plan import Plan
from allocmoe.routing import RULES
from tests.engines.loops import EXPERTS, PARAMETERS, TOP

CPU, DROPPED = torch.device("cpu"), -1
OTHERS = {
    "top_k": (1.0, {}), "alloc_t": (3.25, {"k_base": 2}), "top_p": (2.0, {"threshold": (0.6,)}),
    "naee": (2.0, {"threshold": (0.1,)}), "adapmoe": (2.0, {"threshold": 0.01, "fisher": (0.25,)}),
    "xmoe": (2.0, {"threshold": 0.6}), "prune": (3.0, {"kept": ((1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1),)}),
    "threshold": (2.0, {"threshold": (0.3,), "k_base": 2}),
    "refill": (1.0, {"pairs": 2, "refill_tokens": 30}),
    "alloc_t_refill": (2.5, {"k_base": 2, "pairs": 4, "refill_tokens": 5}),
    "cap": (3.0, {"experts": (4,), "pairs": 4, "refill_tokens": 30}),
}  # fmt: skip


def fixed(plan: Plan) -> PlannedLayer:
    return PlannedLayer.of(plan, 0, DROPPED)


def on(device: torch.device, plan: Plan) -> PlannedLayer:
    return fixed(plan).on(device)


def other(made: Plan) -> Plan:
    """A plan of the same kind with other numbers."""
    k, parameters = OTHERS.get(made.token_rule, (1.0, made.parameters))
    return replace(made, layers=(k,), parameters=parameters)


def two_layers(token_rule: str, scale: float = 1.0) -> dict[str, Any]:
    """A rule's usual parameters times `scale`, and half of that in a second layer where it has its own."""
    own = {n: (p, PARAMETERS[token_rule][n]) for n, p in RULES[token_rule].parameters.items()}
    return {
        name: (v[0] * scale, v[0] * scale / 2) if p.per == "layer" else int(v * scale) if p.whole else v * scale
        for name, (p, v) in own.items()
    }


def routed(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights, ids = (torch.randn(rows, EXPERTS, generator=generator) * 2).softmax(-1).topk(TOP, sorted=False)
    return weights, ids.int()


def budgeted(rule: PlannedLayer | None) -> Any:
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    from allocmoe.engines.vllm.router import BudgetRouter

    router = BudgetRouter(CPURouter(TOP, EXPERTS, renormalize=False))
    router.rule = rule
    return router
