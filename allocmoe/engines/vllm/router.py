"""One router for every method: the model's own router picks K, the plan's rule keeps some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context, is_forward_context_available
from vllm.model_executor.layers.fused_moe.config import RoutingMethodType
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.router.fused_moe_router import FusedMoERouter

from allocmoe.engines.planned import PlannedLayer
from allocmoe.engines.vllm.refuse import unsupported
from allocmoe.errors import AllocMoEError
from allocmoe.routing import Scoring

DROPPED = -1  # the id that vLLM's own kernels skip
KNOWN = ("CPURouter", "FusedTopKRouter", "FusedTopKBiasRouter", "GroupedTopKRouter")


class BudgetRouter(BaseRouter):
    """Stands before a layer's own router.

    Alloc-T's batch is every real token of the forward pass, of all requests in it: whole prompts,
    chunks of prompts and decoding tokens alike. Padding neither gets nor takes budget.

    Attributes:
        inner: the model's router, which still decides everything a plan does not.
        rule: of this layer, None for the model as it is.
        counter: called with the ids and the real rows of every pass, or None.
    """

    supports_monolithic_kernels = False  # from 0.33: a kernel that routes by itself would not ask this router

    def __init__(self, inner: Any) -> None:
        super().__init__(top_k=inner.top_k, global_num_experts=inner.global_num_experts, eplb_state=inner.eplb_state)
        self.inner = inner
        self.rule: PlannedLayer | None = None
        self.counter: Callable[[Tensor, Tensor | None], None] | None = None

    @property
    def routing_method_type(self) -> RoutingMethodType:
        return RoutingMethodType.Custom  # kernels that route by themselves must not be chosen

    @property
    def kernel_routing_method_type(self) -> RoutingMethodType:
        """From 0.33: how the model routes, whatever stands before that."""
        return getattr(self.inner, "kernel_routing_method_type", self.inner.routing_method_type)

    def _compute_routing(
        self, hidden_states: Tensor, router_logits: Tensor, indices_type: torch.dtype | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        weights, ids = self.inner._compute_routing(hidden_states, router_logits, indices_type, **kwargs)
        if self.rule is None and self.counter is None:
            return weights, ids
        valid = real_rows(ids)
        if self.rule is not None:
            weights, ids = self.rule(weights, ids, valid, router_logits)
            weights, ids = weights.contiguous(), ids.contiguous()  # kernels take no strides
        if self.counter is not None:
            self.counter(ids, valid)
        return weights, ids


@contextmanager
def modular_kernels() -> Iterator[None]:
    """While a model is built inside, vLLM chooses kernels that take a router's answer.

    Each layer's kernel is chosen as the layer is made, before a BudgetRouter can stand there. From 0.33 vLLM asks the
    router; before, nobody is asked, and kernels that route by themselves are refused afterwards.
    """
    stock = vars(FusedMoERouter).get("supports_monolithic_kernels")
    if stock is None:
        yield
        return
    FusedMoERouter.supports_monolithic_kernels = BudgetRouter.supports_monolithic_kernels
    try:
        yield
    finally:
        FusedMoERouter.supports_monolithic_kernels = stock


def scoring_of(router: Any) -> Scoring:
    """How one of vLLM's routers scores, from its attributes; AllocMoEError for one that is not known."""
    name = type(router).__name__
    custom = getattr(router, "custom_routing_function", None)
    if name not in KNOWN or custom is not None or getattr(router, "num_fused_shared_experts", None):
        raise AllocMoEError(
            f"this plan's rule looks beyond a router's K experts, and how vLLM's {name} scores them is not known here"
            f"{' (it calls a function of the model)' if custom else ''}: use another method's plan"
        )
    grouped = name == "GroupedTopKRouter" or getattr(router, "use_grouped_topk", False)
    scaled = grouped or name == "FusedTopKBiasRouter"
    return Scoring(
        router.scoring_func,
        renormalise=bool(router.renormalize),
        scale=float(router.routed_scaling_factor) if scaled else 1.0,
        groups=int(router.num_expert_group) if grouped else 1,
        open_groups=int(router.topk_group) if grouped else 1,
        bias=router.e_score_correction_bias if scaled else None,
    )


def real_rows(ids: Tensor) -> Tensor | None:
    """Which of a pass's rows [T] are tokens and not padding; None if all are.

    AllocMoEError if vLLM does not say so: on a device, rows that fill up a captured graph would take budget.
    """
    if not is_forward_context_available():
        return None
    context = get_forward_context()
    padding = context.is_padding
    if padding is None:
        if ids.device.type == "cpu":  # where nothing fills a pass up
            return None
        raise unsupported("does not say which rows of a pass are padding")
    if len(padding) != len(ids):
        raise AllocMoEError(f"vLLM routes {len(ids)} rows but tells of {len(padding)} whether they are padding")
    if ids.device.type != "cpu":
        return ~padding
    known = context.additional_kwargs
    if "allocmoe_real" not in known:  # once a pass: on a CPU there is no padding but in dummy runs
        known["allocmoe_real"] = ~padding if bool(padding.any()) else None
    return known["allocmoe_real"]
