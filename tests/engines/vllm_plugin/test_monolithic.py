"""Where vLLM asks a router whether kernels may route by themselves (from 0.33), it is told no while a model loads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM 0.33's question, as its layers put it to a router; where that is not installed, its two properties."""
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
    from vllm.model_executor.layers.fused_moe.router.fused_moe_router import FusedMoERouter

    if not hasattr(FusedMoERouter, "supports_monolithic_kernels"):
        monkeypatch.setattr(FusedMoERouter, "supports_monolithic_kernels", property(lambda self: True), raising=False)
        kind = property(lambda self: self.routing_method_type)
        monkeypatch.setattr(FusedMoERouter, "kernel_routing_method_type", kind, raising=False)

    def question() -> Any:
        router = CPURouter(2, 4, renormalize=False)
        kind = router.kernel_routing_method_type
        return SimpleNamespace(require_decomposed_backend=not router.supports_monolithic_kernels, routing_method=kind)

    return question


def test_only_while_a_model_is_built(asking: Any) -> None:
    from allocmoe.engines.vllm.router import modular_kernels

    before = asking()
    assert not before.require_decomposed_backend
    with modular_kernels():
        during = asking()
        assert during.require_decomposed_backend
        assert during.routing_method == before.routing_method, "the model's own"
    assert asking() == before
    with pytest.raises(RuntimeError), modular_kernels():
        raise RuntimeError
    assert asking() == before


def test_a_budget_router_answers_for_itself(asking: Any) -> None:
    from vllm.model_executor.layers.fused_moe.config import RoutingMethodType
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    from allocmoe.engines.vllm.router import BudgetRouter

    inner = CPURouter(2, 4, renormalize=False)
    router = BudgetRouter(inner)
    assert not router.supports_monolithic_kernels
    assert router.routing_method_type == RoutingMethodType.Custom
    assert router.kernel_routing_method_type == inner.kernel_routing_method_type


def test_a_vllm_that_does_not_ask_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
    from vllm.model_executor.layers.fused_moe.router.fused_moe_router import FusedMoERouter

    from allocmoe.engines.vllm.router import BudgetRouter, modular_kernels

    for name in ("supports_monolithic_kernels", "kernel_routing_method_type"):
        if hasattr(FusedMoERouter, name):
            monkeypatch.delattr(FusedMoERouter, name)
    with modular_kernels():
        assert not hasattr(FusedMoERouter, "supports_monolithic_kernels")
    inner = CPURouter(2, 4, renormalize=False)
    assert BudgetRouter(inner).kernel_routing_method_type == inner.routing_method_type
