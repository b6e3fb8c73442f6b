"""pytest-benchmark: a layer's router alone, every token rule in one launch and as the torch reference; vLLM's own.

make bench

On the CPU; with `ALLOCMOE_BENCH_DEVICE=cuda` on a GPU. How much of a step it is says `bench/routing.py`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from allocmoe.engines.planned import PlannedLayer
from allocmoe.routing import RULES
from allocmoe.routing.kernels import fused_on

DEVICE = torch.device(os.environ.get("ALLOCMOE_BENCH_DEVICE", "cpu"))
TOKENS, EXPERTS, TOP = (1, 8, 32, 256, 4096), (64, 256), 8


def own_numbers(rule: str, experts: int) -> dict[str, Any]:
    """Numbers at half of the activations under which the rule has something to do; what is not said here keeps all."""
    own = {
        "alloc_t": {"k_base": 1}, "top_p": {"threshold": 0.4}, "xmoe": {"threshold": 0.4}, "naee": {"threshold": 0.3},
        "threshold": {"threshold": 0.044 if experts == 64 else 0.02},
        "adapmoe": {"threshold": 0.1, "fisher": 1.0}, "cap": {"experts": experts // 3},
        "alloc_t_refill": {"k_base": 1}, "prune": {"kept": torch.arange(experts, device=DEVICE).double() % 2},
    }  # fmt: skip
    small = {"pairs": TOP, "refill_tokens": 64} if RULES[rule].logits and rule != "prune" else {}
    return {"k": TOP / 2, **RULES[rule].keep_all(TOP, experts), **own.get(rule, {}), **small}


@pytest.fixture
def offered(tokens: int, experts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
    return weights, ids.int(), logits


def ready() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("form", ["fused", "torch"])
@pytest.mark.parametrize("rule", list(RULES))
def test_router(benchmark: Any, offered: Any, rule: str, form: str, tokens: int, experts: int) -> None:
    weights, ids, logits = offered
    fused = fused_on(DEVICE) if form == "fused" else None
    if form == "fused" and fused is None:
        pytest.skip("nothing is installed that it is compiled by")
    layer = PlannedLayer(RULES[rule], own_numbers(rule, experts), TOP, -1, fused=fused)

    def route() -> None:
        layer(weights, ids, None, logits)
        ready()

    benchmark.pedantic(route, rounds=30, iterations=5 if tokens < 4096 else 1, warmup_rounds=3)
    benchmark.extra_info.update({"rule": rule, "form": form, "tokens": tokens, "experts": experts})


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_vllms_own_top_k(benchmark: Any, offered: Any, tokens: int, experts: int) -> None:
    pytest.importorskip("vllm")
    if DEVICE.type != "cpu":
        from vllm.model_executor.layers.fused_moe.router.fused_topk_router import FusedTopKRouter as Router
    else:
        from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter as Router

    router, logits = Router(TOP, experts, renormalize=False), offered[2]
    hidden = torch.zeros(tokens, 8, device=DEVICE)

    def route() -> None:
        router.select_experts(hidden, logits, torch.int32)
        ready()

    benchmark.pedantic(route, rounds=30, iterations=5 if tokens < 4096 else 1, warmup_rounds=3)
    benchmark.extra_info.update({"rule": "vLLM's top-k", "tokens": tokens, "experts": experts})
