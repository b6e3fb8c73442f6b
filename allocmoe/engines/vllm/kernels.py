"""Dropped pairs cost nothing: what vLLM's expert kernels need for that. Whether it was enough, the probe says.

On a CPU a kernel reads whatever id it is given, so kept pairs become rows of their own. On CUDA kernels are given ids
below zero, which they skip; where the sum over K is a call of its own, it must skip them too, or it adds what nobody
wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from functools import wraps
from typing import Any

import torch
from vllm.platforms import current_platform

from allocmoe.engines.vllm.probe import kind, probe
from allocmoe.engines.vllm.refuse import unsupported
from allocmoe.engines.vllm.rows import one_pair_a_row
from allocmoe.errors import AllocMoEError


def prepare(runner: Any, device: torch.device, advice: str, probed: set[Hashable]) -> str:
    """Make one MoE layer's kernel skip dropped pairs, and let it prove that; its name, for people.

    Again whenever its weights are processed anew, which may build another kernel: after `reload_weights`, and after a
    sleep that discarded them.

    Args:
        runner: the layer, its router in place.
        device: of its weights.
        advice: what to do instead, for the error.
        probed: kinds of layers that have proved it; this one's is added.

    Raises AllocMoEError for a kernel that does not.
    """
    method = runner.routed_experts.quant_method
    path = skip_dropped(runner, advice)
    if kind(runner) not in probed:
        probe(runner, device, advice)
        probed.add(kind(runner))
    stock = method.process_weights_after_loading

    @wraps(stock)
    def process_weights_after_loading(*args: Any, **kwargs: Any) -> None:
        stock(*args, **kwargs)
        skip_dropped(runner, advice)
        probe(runner, device, advice)

    method.process_weights_after_loading = process_weights_after_loading
    return path


def skip_dropped(runner: Any, advice: str) -> str:
    """Make one MoE layer's kernel skip dropped pairs; the name of the kernel path, for people. Any number of times.

    Raises AllocMoEError for one that certainly does not; of all others the probe will say.
    """
    method = runner.routed_experts.quant_method
    if method.is_monolithic or method.moe_kernel is None:
        raise AllocMoEError(
            f"{runner.layer_name} uses a kernel that routes by itself ({type(method).__name__}), which no plan can "
            f"change: {advice}"
        )
    experts = method.moe_kernel.fused_experts
    name = type(experts).__name__
    check_scales(experts, advice)
    parts = [experts, *_inner(experts)]
    for part in parts:
        for patched in ("apply", "moe_sum"):
            vars(part).pop(patched, None)
    if current_platform.is_cpu():
        if getattr(experts, "_use_zentorch", False) or name.startswith("Zen"):
            raise AllocMoEError("a plan cannot be served by the zentorch kernels: uninstall zentorch")
        experts.apply = one_pair_a_row(experts.apply, runner.router)
        return f"{name}, kept pairs as rows"
    for part in parts:
        if hasattr(part, "moe_sum"):
            _sum_kept(part)
    return f"{name}, dropped ids skipped"


def _inner(experts: Any) -> list[Any]:
    """The two kernels of one that chooses by shape."""
    both = (getattr(experts, name, None) for name in ("experts", "fallback_experts"))
    return [one for one in both if one is not None]


def check_scales(experts: Any, advice: str) -> None:
    """AllocMoEError where one scale is taken over all pairs' activations: the rows of dropped pairs would enter it.

    No probe may be trusted here: what those rows hold changes from call to call. Formats in blocks (nvfp4, mxfp8) are
    named by strings, and scale every row by itself.
    """
    quant: Any = getattr(experts, "quant_config", None)
    if isinstance(getattr(quant, "quant_dtype", None), torch.dtype) and (
        quant.a2_scale is None and quant.block_shape is None and not quant.per_act_token_quant
    ):
        raise AllocMoEError(
            f"a plan cannot be served by {type(experts).__name__} with one dynamic activation scale for all tokens: "
            "the rows of dropped experts would enter it. Use weights with static, per-token or block scales "
            f'(quantization="fp8_per_block" makes such), or {advice}'
        )


def _sum_kept(experts: Any) -> None:
    """Give a kernel's sum over K (Triton, Marlin) the ids, so that it leaves out the dropped ones."""
    from vllm import _custom_ops as ops

    if len(inspect.signature(ops.moe_sum).parameters) < 3:
        raise unsupported("has no sum over experts that leaves out dropped ones")
    stock, seen = experts.apply, {}
    place = list(inspect.signature(stock).parameters).index("topk_ids")

    def apply(*args: Any, **kwargs: Any) -> Any:  # not every kernel hands the ids to its sum
        seen["ids"] = kwargs["topk_ids"] if "topk_ids" in kwargs else args[place]
        found = stock(*args, **kwargs)
        seen.clear()
        return found

    def moe_sum(input: Any, output: Any, topk_ids: Any = None, expert_map: Any = None) -> None:
        ops.moe_sum(input, output, seen.get("ids") if topk_ids is None else topk_ids, expert_map)

    experts.apply, experts.moe_sum = apply, moe_sum
