"""What each of vLLM's kernels is given so that it skips, and which are refused unprobed."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import faulty
import pytest
import torch
from test_kernels import EXPERTS, MASKS, TOP, routing
from torch import Tensor

from allocmoe.errors import AllocMoEError

pytestmark = pytest.mark.vllm
DO = 'start the engine with moe_backend="triton"'


class NewExperts:
    """A kernel that nobody knows."""

    quant_config: Any = None

    def apply(self, **call: Any) -> None:
        raise AssertionError("nothing is computed here")


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are given ids below zero."""
    from allocmoe.engines.vllm import kernels

    monkeypatch.setattr(kernels, "current_platform", SimpleNamespace(is_cpu=lambda: False))


def runner(experts: Any, monolithic: bool = False, kernel: bool = True) -> Any:
    """As much of vLLM's MoERunner as its kernels are reached through."""
    kernels = SimpleNamespace(fused_experts=experts) if kernel else None
    method = SimpleNamespace(is_monolithic=monolithic, moe_kernel=kernels)
    router = SimpleNamespace(rule=None)
    return SimpleNamespace(
        routed_experts=SimpleNamespace(quant_method=method), router=router, layer_name="model.layers.3.mlp.experts"
    )


def refused(layer: Any, *says: str) -> None:
    from allocmoe.engines.vllm.kernels import skip_dropped

    with pytest.raises(AllocMoEError) as caught:
        skip_dropped(layer, DO)
    message = str(caught.value)
    assert "\n" not in message
    for word in says:
        assert word in message


def cpu_experts(cls: Any = None) -> Any:
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    experts = object.__new__(cls or CPUUnquantizedExperts)
    experts._use_zentorch = False
    return experts


def test_the_cpus_kernels_are_wrapped() -> None:
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts, X86CPUUnquantizedExperts

    from allocmoe.engines.vllm.kernels import skip_dropped

    for cls in (CPUUnquantizedExperts, X86CPUUnquantizedExperts):
        experts = cpu_experts(cls)
        assert cls.__name__ in skip_dropped(runner(experts), DO)
        assert "apply" in vars(experts)
        assert "apply" not in vars(cpu_experts(cls)), "this layer's alone"


def test_kernels_that_route_by_themselves_are_refused() -> None:
    experts = cpu_experts()
    for layer in (runner(experts, monolithic=True), runner(experts, kernel=False)):
        refused(layer, "model.layers.3.mlp.experts", "routes by itself", 'moe_backend="triton"')
    assert "apply" not in vars(experts)


def test_zentorch_is_refused() -> None:
    experts = cpu_experts()
    experts._use_zentorch = True
    refused(runner(experts), "zentorch", "uninstall")
    assert "apply" not in vars(experts)


def test_any_kernel_of_a_cpu_is_given_rows() -> None:
    """It would read whatever id it is given; what it makes of rows, the probe says."""
    from allocmoe.engines.vllm.kernels import skip_dropped

    experts = NewExperts()
    assert skip_dropped(runner(experts), DO) == "NewExperts, kept pairs as rows"
    assert "apply" in vars(experts)
    refused(runner(type("ZenCPUExpertsInt8", (NewExperts,), {})()), "zentorch")


def scales(**given: Any) -> Any:
    experts, known = NewExperts(), {"a2_scale": None, "block_shape": None, "per_act_token_quant": False}
    experts.quant_config = SimpleNamespace(**{"quant_dtype": torch.float8_e4m3fn, **known, **given})
    return experts


def test_one_dynamic_scale_for_all_tokens_is_refused_unprobed() -> None:
    from allocmoe.engines.vllm.kernels import skip_dropped

    for dtype in (torch.float8_e4m3fn, torch.int8):
        refused(runner(scales(quant_dtype=dtype)), "NewExperts", "one dynamic activation scale", "per-token", DO)
    for right in (
        {"quant_dtype": None}, {"a2_scale": torch.ones(1)}, {"block_shape": [128, 128]}, {"per_act_token_quant": True},
        {"quant_dtype": "nvfp4"}, {"quant_dtype": "mxfp8"},
    ):  # fmt: skip
        skip_dropped(runner(scales(**right)), DO)


def test_vllms_own_names_of_scales(on_cuda: None) -> None:
    """The attributes that are read are those of its quantisation config."""
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config

    from allocmoe.engines.vllm.kernels import skip_dropped

    ones = torch.ones(EXPERTS)
    experts = NewExperts()
    for a_scale, per_token, says in ((None, False, "refused"), (ones, False, "served"), (None, True, "served")):
        experts.quant_config = fp8_w8a8_moe_quant_config(
            ones, ones, a1_scale=a_scale, a2_scale=a_scale, per_act_token_quant=per_token
        )
        refused(runner(experts), "scale") if says == "refused" else skip_dropped(runner(experts), DO)


def torch_moe_sum(input: Tensor, output: Tensor, topk_ids: Tensor | None = None, expert_map: Any = None) -> None:
    """vLLM's `moe_sum` as its documentation has it: pairs whose id is below zero are left out."""
    assert expert_map is None
    if topk_ids is not None:
        input = torch.where((topk_ids >= 0)[..., None], input, 0.0)
    output.copy_(input.sum(1))


def triton_like(with_ids: bool | None) -> Any:
    """A kernel of this name whose dropped pairs' rows hold what nobody wrote.

    From 0.31 on vLLM hands the ids to `moe_sum`, before it did not; None: its sum would take them and gets none.
    """

    class TritonExperts:
        def apply(self, output: Tensor, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
            parts = hidden_states[:, None] * topk_weights[..., None] * (topk_ids[..., None] + 1)
            parts = torch.where((topk_ids >= 0)[..., None], parts, torch.nan)
            if with_ids:
                self.moe_sum(parts, output, topk_ids, None)
            else:
                self.moe_sum(parts, output)

    def with_them(self: Any, input: Tensor, output: Tensor, topk_ids: Any = None, expert_map: Any = None) -> None:
        torch_moe_sum(input, output)

    def without(self: Any, input: Tensor, output: Tensor) -> None:
        torch_moe_sum(input, output)

    TritonExperts.moe_sum = without if with_ids is False else with_them  # type: ignore[attr-defined]
    return TritonExperts()


@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("with_ids", [True, False, None])
def test_a_sum_leaves_out_what_nobody_wrote(
    with_ids: bool, positional: bool, on_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import _custom_ops as ops

    from allocmoe.engines.vllm.kernels import skip_dropped

    monkeypatch.setattr(ops, "moe_sum", torch_moe_sum)
    experts, untouched = triton_like(with_ids), triton_like(with_ids)
    assert "TritonExperts" in skip_dropped(runner(experts), DO)
    close = {"rtol": 1e-5, "atol": 1e-5}
    for seed, mask in enumerate((MASKS["one token keeps none"], MASKS["all kept"], MASKS["none kept"], MASKS["many"])):
        call = routing(mask, torch.float32, seed)
        experts.apply(*call.values()) if positional else experts.apply(**call)
        weight = (call["topk_weights"].double() * (call["topk_ids"] + 1)).sum(1)
        torch.testing.assert_close(call["output"].double(), call["hidden_states"].double() * weight[:, None], **close)
        untouched.apply(**call)
        assert bool(call["output"].isnan().any()) is not bool(mask.all()), "this could not have failed"


def test_two_layers_do_not_mix_their_ids(on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import _custom_ops as ops

    from allocmoe.engines.vllm.kernels import skip_dropped

    monkeypatch.setattr(ops, "moe_sum", torch_moe_sum)
    layers = [triton_like(with_ids=False) for _ in range(2)]
    for experts in layers:
        skip_dropped(runner(experts), DO)
    for seed in range(3):
        for i, experts in enumerate(layers):
            mask = torch.rand(4 + i, TOP, generator=torch.Generator().manual_seed(seed)) < 0.5
            call = routing(mask, torch.float32, seed)
            experts.apply(**call)
            assert not call["output"].isnan().any()


def test_a_sum_that_cannot_leave_out_is_refused(on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import _custom_ops as ops

    monkeypatch.setattr(ops, "moe_sum", lambda input, output: output.copy_(input.sum(1)))
    refused(runner(triton_like(with_ids=False)), "vLLM", "no sum over experts", "0.31")


def sums(experts: Any) -> list[list[float]]:
    """What a kernel's own sum over K makes of two tokens, one of which dropped a pair that nobody wrote."""
    parts, output = torch.tensor([[[1.0], [torch.nan]], [[2.0], [3.0]]]), torch.zeros(2, 1)
    experts.moe_sum(parts, output, torch.tensor([[4, -1], [0, 2]]), None)
    return output.tolist()


def test_vllms_kernels_with_a_sum_of_their_own(on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes themselves, as far as they go without a GPU; also inside one that chooses by shape."""
    from vllm import _custom_ops as ops
    from vllm.model_executor.layers.fused_moe.experts.deep_gemm_moe import DeepGemmExperts
    from vllm.model_executor.layers.fused_moe.experts.marlin_moe import MarlinExperts
    from vllm.model_executor.layers.fused_moe.experts.triton_deep_gemm_moe import TritonOrDeepGemmExperts
    from vllm.model_executor.layers.fused_moe.experts.triton_moe import TritonExperts

    from allocmoe.engines.vllm.kernels import skip_dropped

    monkeypatch.setattr(ops, "moe_sum", torch_moe_sum)
    for cls in (TritonExperts, MarlinExperts):
        experts = object.__new__(cls)
        assert skip_dropped(runner(experts), DO) == f"{cls.__name__}, dropped ids skipped"
        assert sums(experts) == [[1.0], [5.0]]
    either = object.__new__(TritonOrDeepGemmExperts)
    either.experts, either.fallback_experts = object.__new__(DeepGemmExperts), object.__new__(TritonExperts)
    assert skip_dropped(runner(either), DO) == "TritonOrDeepGemmExperts, dropped ids skipped"
    assert sums(either.fallback_experts) == [[1.0], [5.0]]


@pytest.mark.parametrize("with_ids", [True, False])
def test_patching_again_is_patching_once(with_ids: bool, on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import _custom_ops as ops

    from allocmoe.engines.vllm.kernels import skip_dropped

    monkeypatch.setattr(ops, "moe_sum", torch_moe_sum)
    experts = triton_like(with_ids)
    for _ in range(3):
        skip_dropped(runner(experts), DO)
    assert inspect.getclosurevars(experts.apply).nonlocals["stock"].__func__ is type(experts).apply
    assert sums(experts) == [[1.0], [5.0]]


def test_a_layer_is_probed_and_so_is_the_kernel_that_a_reload_builds(on_cuda: None) -> None:
    """Layers of one kind share a probe; a reload asks every kernel anew, as its scales may be others."""
    from allocmoe.engines.vllm.kernels import prepare

    first, second, asked = faulty.runner(faulty.Right()), faulty.runner(faulty.Right()), set[Any]()
    assert prepare(first, faulty.CPU, DO, asked) == "Right, dropped ids skipped"
    prepare(second, faulty.CPU, DO, asked)
    assert first.routed_experts.experts.seen
    assert not second.routed_experts.experts.seen
    for built, says in ((faulty.Right(), ""), (faulty.Wraps(), "last expert"), (scales(), "activation scale")):
        method = second.routed_experts.quant_method
        method.moe_kernel = SimpleNamespace(fused_experts=built)
        if says:
            with pytest.raises(AllocMoEError, match=says):
                method.process_weights_after_loading(second.routed_experts)
        else:
            method.process_weights_after_loading(second.routed_experts)
            assert built.seen
    with pytest.raises(AllocMoEError, match="last expert"):
        prepare(faulty.runner(faulty.Wraps()), faulty.CPU, DO, asked)
