"""pytest-benchmark: prefill and decode of a `-small` shape, one benchmark per method at half budget.

make bench
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allocmoe.measure import protocol, shapes
from allocmoe.methods import sweep

METHODS = ("original", "uniform", "alloc-l", "naee", "dynamic-moe", "alloc-t", "alloc-moe")
TOKENS = torch.randint(4096, (8, 32 + 128), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def setting() -> tuple[Any, dict[str, Any]]:
    engine = shapes.build("olmoe-small")
    half = engine.spec.original_budget // 2
    plans = sweep(engine, protocol.random_profile(engine, METHODS), METHODS, [half])
    return engine, {plan.method: plan for plan in plans}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("method", METHODS)
def test_phase(benchmark: Any, setting: tuple[Any, dict[str, Any]], method: str, phase: str) -> None:
    engine, plans = setting
    plan = plans[method]
    with engine.using(plan):
        if phase == "prefill":
            benchmark.pedantic(engine.prefill, (TOKENS[:, :32],), rounds=10, warmup_rounds=5)
        else:
            benchmark.pedantic(
                engine.decode,
                setup=lambda: ((engine.prefill(TOKENS[:, :32]), TOKENS[:, 32:]), {}),
                rounds=10,
                warmup_rounds=5,
            )
    benchmark.extra_info.update(
        {"phase": phase, "method": method, "budget": plan.budget, "activations": plan.exact_budget}
    )
