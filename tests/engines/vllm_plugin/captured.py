"""Rules whose numbers are in tensors, as under captured graphs, and routers to put them in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from allocmoe.engines.rule import LayerRule
from allocmoe.plan import Plan
from tests.engines.loops import (
    EXPERTS,
    TOP,
)

CPU, DROPPED = torch.device("cpu"), -1
OTHERS = {"top_k": (1.0, ()), "alloc_t": (3.25, ()), "top_p": (2.0, (0.6,)), "naee": (2.0, (0.1,))}


def fixed(plan: Plan) -> LayerRule:
    return LayerRule.of(plan, 0, DROPPED)


def on(device: torch.device, plan: Plan) -> LayerRule:
    from allocmoe.engines.vllm.install import on_device

    return on_device(fixed(plan), device)


def other(made: Plan) -> Plan:
    """A plan of the same kind with other numbers."""
    k, thresholds = OTHERS[made.token_rule]
    return replace(made, layers=(k,), k_base=2, thresholds=thresholds)


def routed(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights, ids = (torch.randn(rows, EXPERTS, generator=generator) * 2).softmax(-1).topk(TOP, sorted=False)
    return weights, ids.int()


def budgeted(rule: LayerRule | None) -> Any:
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    from allocmoe.engines.vllm.router import BudgetRouter

    router = BudgetRouter(CPURouter(TOP, EXPERTS, renormalize=False))
    router.rule = rule
    return router
