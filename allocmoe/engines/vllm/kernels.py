"""Dropped pairs cost nothing: what each of vLLM's expert kernels needs for that.

On a CPU the kernel reads whatever id it is given, so kept pairs become rows of their own. On CUDA the
Triton kernels skip ids below zero, but the sum over K must skip them too, or it adds what nobody wrote.
"""

from __future__ import annotations

import inspect
from typing import Any

from allocmoe.engines.vllm.refuse import SUPPORTED, unsupported
from allocmoe.engines.vllm.rows import one_pair_a_row
from allocmoe.errors import AllocMoEError


def skip_dropped(runner: Any) -> str:
    """Make one MoE layer's kernel skip dropped pairs; the name of the kernel path, for people.

    Raises AllocMoEError for a kernel that is not known to.
    """
    method = runner.routed_experts.quant_method
    if method.is_monolithic or method.moe_kernel is None:
        raise AllocMoEError(
            f"{runner.layer_name} uses a kernel that routes by itself ({type(method).__name__}), which no plan can "
            f'change: on CUDA start the engine with moe_backend="triton", on a CPU use vLLM {SUPPORTED}'
        )
    experts = method.moe_kernel.fused_experts
    name = type(experts).__name__
    if any(base.__name__ == "CPUUnquantizedExperts" for base in type(experts).__mro__):
        if getattr(experts, "_use_zentorch", False):
            raise AllocMoEError("a plan cannot be served by the zentorch kernels: uninstall zentorch")
        experts.apply = one_pair_a_row(experts.apply, runner.router)
        return f"{name}, kept pairs as rows"
    if name == "TritonExperts":
        _sum_kept(experts)
        return f"{name}, dropped ids skipped"
    raise AllocMoEError(
        f"a plan cannot be served by the kernel {name}, whose treatment of dropped experts is unknown: "
        'on CUDA start the engine with moe_backend="triton", on a CPU use float32 or bfloat16 weights'
    )


def _sum_kept(experts: Any) -> None:
    """Give the Triton kernels' sum over K the ids, so that it leaves out the dropped ones."""
    from vllm import _custom_ops as ops

    if len(inspect.signature(ops.moe_sum).parameters) < 3:
        raise unsupported("has no sum over experts that leaves out dropped ones")
    stock, seen = experts.apply, {}
    if "topk_ids" not in inspect.signature(experts.moe_sum).parameters:  # before 0.31: remember the call's
        signature = inspect.signature(stock)

        def apply(*args: Any, **kwargs: Any) -> Any:
            seen["ids"] = signature.bind(*args, **kwargs).arguments["topk_ids"]
            return stock(*args, **kwargs)

        experts.apply = apply

    def moe_sum(input: Any, output: Any, topk_ids: Any = None, expert_map: Any = None) -> None:
        ops.moe_sum(input, output, seen.get("ids") if topk_ids is None else topk_ids, expert_map)

    experts.moe_sum = moe_sum
