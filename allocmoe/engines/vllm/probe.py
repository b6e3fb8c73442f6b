"""Whether a layer's kernel serves plans, asked of the kernel itself once its weights are loaded.

It is given random tokens of which some pairs are dropped, through the call that serving makes, and must give what it
gives where the same pairs are present with weight 0. Before each call all memory that it might take for results is
filled with infinity, which survives every sum, maximum and product with 0. The weights of dropped pairs are left
standing: a kernel that takes -1 for some expert shows it.

Nothing is exchanged between ranks, and nothing stays behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from allocmoe.engines.planned import PlannedLayer
from allocmoe.engines.vllm.router import DROPPED
from allocmoe.engines.vllm.rows import SCRATCH
from allocmoe.errors import AllocMoEError, first_line
from allocmoe.routing import RULES

FEW, MANY = 17, 256  # tokens: kernels choose their tiles, and some another kernel, by how many there are
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
QUANTISED = 6e-2  # activations of 8 bits or fewer: a rounding that goes the other way moves an element by up to 1/16
EMPTY = {
    torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}  # fmt: skip
BUFFERS = ("output", "workspace13", "workspace2")  # of a kernel's `apply`


@dataclass(frozen=True)
class Case:
    """Tokens of one probe: `kept` bool [T, K]; `narrow` cuts off columns that no token keeps, as plain top-k does."""

    name: str
    kept: Tensor
    narrow: bool = False


def cases(top: int, most: int, many: bool) -> list[Case]:
    """What the probe presents to a layer of top-`top` that takes at most `most` tokens."""
    generator = torch.Generator().manual_seed(0)
    few, every = min(FEW, most), torch.ones(1, top, dtype=torch.bool)
    some = torch.rand(min(MANY, most), top, generator=generator) < 0.5
    some[0], some[1:2] = True, False
    tokens = torch.arange(few)[:, None] % 3 != 1
    found = [
        Case("some pairs dropped", some[:few]),
        Case("whole tokens dropped", tokens.expand(few, top)),
        Case("everything dropped", torch.zeros(few, top, dtype=torch.bool)),
        Case("one token", torch.arange(top)[None] < (top + 1) // 2),
        Case("one token dropped", ~every),
    ]
    if top > 1:
        found.append(Case("fewer columns", torch.arange(top).expand(few, top) < top - 1, narrow=True))
    return [*found, Case("many tokens", some)] if many and len(some) > few else found


def kind(runner: Any) -> Hashable:
    """What layers have in common whose kernels do the same: one of them is probed."""
    layer, experts = runner.routed_experts, runner.routed_experts.quant_method.moe_kernel.fused_experts
    quant = getattr(experts, "quant_config", None)
    names = ("quant_dtype", "weight_quant_dtype", "block_shape", "per_act_token_quant")
    return (
        type(experts),
        runner.moe_config.in_dtype,
        tuple(str(getattr(quant, name, None)) for name in names),
        tuple((name, tuple(p.shape), p.dtype, p.stride()) for name, p in layer.named_parameters()),
        layer.expert_map is None,
    )


@torch.no_grad()
def probe(runner: Any, device: torch.device, advice: str) -> None:
    """Let one MoE layer's kernel prove that it leaves out what a plan drops.

    Args:
        runner: as vLLM's MoERunner, with loaded weights; its router's `rule` is put back afterwards.
        device: of the weights.
        advice: what to do instead, for the error.

    Raises AllocMoEError with the case, the largest error and the tolerance, or with what stood in the way.
    """
    moe = runner.moe_config
    experts = runner.routed_experts.quant_method.moe_kernel.fused_experts
    name = f"{type(experts).__name__} of {runner.layer_name}"
    if getattr(getattr(moe, "moe_parallel_config", None), "use_all2all_kernels", False):
        raise AllocMoEError(
            f"{name} exchanges tokens between ranks, which cannot be probed at start-up: use tensor parallelism"
        )
    quantised = getattr(getattr(experts, "quant_config", None), "quant_dtype", None) is not None
    tolerance = QUANTISED if quantised else TOLERANCE[moe.in_dtype]
    with poisoned(experts), _any_row(runner.router, moe.experts_per_token) as routed:
        for case in cases(moe.experts_per_token, moe.max_num_tokens, many=device.type != "cpu"):
            try:
                wrong = _differs(partial(_call, runner), _tokens(runner, case, device), case, tolerance, routed)
            except Exception as error:  # of a kernel's many kinds
                wrong = f"it stops: {first_line(error, kind=True)}"
            if wrong:
                raise AllocMoEError(f'{name} cannot serve a plan: in the probe "{case.name}" {wrong}; {advice}')


def _call(runner: Any, hidden: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    """What serving calls after routing: [T, hidden] for hidden states, combine weights and ids [T, K]."""
    found = runner.routed_experts.forward_modular(hidden, weights, ids, None, None)
    if not isinstance(found, Tensor):
        raise TypeError("the sum over experts is left to a later kernel")
    return found.float().clone()  # the kernel may give the same buffer again


def _tokens(runner: Any, case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random hidden states [T, hidden], combine weights and ids [T, K]; every other token prefers this rank's."""
    moe, layer = runner.moe_config, runner.routed_experts
    generator = torch.Generator().manual_seed(1)
    rows, top = case.kept.shape
    hidden = torch.randn(rows, moe.hidden_dim, generator=generator)
    hidden[:, getattr(moe, "hidden_dim_unpadded", None) or moe.hidden_dim :] = 0  # vLLM pads with zeros
    liking = torch.rand(rows, moe.num_experts, generator=generator)
    if layer.expert_map is not None:
        liking[::2] += (layer.expert_map >= 0).cpu()
    ids = liking.topk(top, dim=-1).indices.to(layer.quant_method.topk_indices_dtype or torch.int32)
    weights = torch.rand(rows, top, generator=generator) + 0.5
    return hidden.to(device, moe.in_dtype), weights.to(device), ids.to(device)


def _differs(
    call: Callable[[Tensor, Tensor, Tensor], Tensor], tokens: tuple[Tensor, Tensor, Tensor], case: Case,
    tolerance: float, routed: Callable[[bool], None],
) -> str:  # fmt: skip
    """What is wrong with the answer to a case, in words; "" if nothing is."""
    hidden, weights, ids = tokens
    kept = case.kept.to(ids.device)
    hidden, peak = _scaled(call, hidden, weights, ids)  # it also leaves the kernel's own memory full of other results
    routed(len(ids) == 1)
    width = case.kept.shape[1] - case.narrow
    cut = [t[:, :width].contiguous() for t in (weights, ids.masked_fill(~kept, DROPPED))]
    found = call(hidden, *cut)
    expected = call(hidden, weights * kept, ids)
    error = (found - expected).abs().nan_to_num(nan=math.inf, posinf=math.inf).amax(-1) / peak
    bad = ~(error <= tolerance)
    if not bad.any():
        return ""
    reason = _reason(bad, kept, bool(error.isinf().any()))
    return f"{reason} (largest error {float(error.max()):.2g} of the largest value, tolerance {tolerance:.2g})"


def _scaled(call: Callable[..., Tensor], hidden: Tensor, weights: Tensor, ids: Tensor) -> tuple[Tensor, float]:
    """Hidden states times what makes the full answer neither vanish nor overflow, and the answer's largest value.

    Weights of dummies may be 1e-3 and smaller, and what comes out goes with the third power of what goes in.
    """
    least = 4 * torch.finfo(hidden.dtype).tiny  # below, digits are lost
    for _ in range(12):
        peak = float(call(hidden, weights, ids).abs().max())
        if math.isfinite(peak) and peak > least:
            return hidden, peak
        hidden = hidden * (8 if math.isfinite(peak) else 1 / 8)
    raise ArithmeticError("only zeros or infinities come out, whatever goes in, which proves nothing")


def _reason(bad: Tensor, kept: Tensor, infinite: bool) -> str:
    """From which tokens [T] came out wrong, and what of them [T, K] was kept."""
    if bad[kept.all(1)].any():
        return "tokens that keep all experts change too: something is shared between tokens, such as a scale"
    if not infinite:
        return "dropped pairs are computed: does it take an id of -1 for the last expert?"
    if bad[kept.any(1)].any():
        return "the sum adds rows that nobody wrote"
    return "tokens that keep no expert come out as what was there before"


@contextmanager
def poisoned(experts: Any) -> Iterator[None]:
    """Until the end, memory without values holds infinity: new tensors, and the buffers that a kernel is given."""
    stock, own, given = experts.apply, vars(experts).get("apply"), []
    SCRATCH.clear()

    def apply(*args: Any, **call: Any) -> Any:
        buffers = [call[name] for name in BUFFERS if isinstance(call.get(name), Tensor)]
        given.extend(buffers)
        for buffer in buffers:
            _fill(buffer)
        return stock(*args, **call)

    experts.apply = apply
    try:
        with _Empty():
            yield
    finally:
        if own is None:
            del experts.apply
        else:
            experts.apply = own
        for buffer in given:  # they are shared with kernels that are not probed
            buffer.zero_()


class _Empty(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in EMPTY:
            _fill(made)
        return made


def _fill(buffer: Tensor) -> None:
    if buffer.is_floating_point() and buffer.itemsize > 1:
        buffer.fill_(math.inf)
    elif buffer.is_floating_point():
        buffer.view(torch.uint8).fill_(0xFF)  # not a number, or the largest: formats of 8 bits have no infinity


@contextmanager
def _any_row(router: Any, top: int) -> Iterator[Callable[[bool], None]]:
    """A rule that may keep anything of a row, in place until the end: the path over rows of pairs asks for it.

    It is given a function that says whether a token's kept pairs come first in its row.
    """
    before, rule = router.rule, RULES["alloc_t"]

    def routed(prefix: bool) -> None:
        router.rule = PlannedLayer(replace(rule, prefix=prefix), {"k": 1.0}, top, DROPPED)

    routed(False)
    try:
        yield routed
    finally:
        router.rule = before
