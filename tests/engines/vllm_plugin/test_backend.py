"""Which kernel is asked for: by quantisation, never against the user, and advice that is not followed already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest

from allocmoe.engines.vllm.backend import BACKENDS, FORMATS, advice, backends, choose

pytestmark = pytest.mark.vllm


def config(quantisation: str | None = None, backend: str = "auto", device: str = "cuda", **written: Any) -> Any:
    """As much of a VllmConfig as is read."""
    hf_config = SimpleNamespace(quantization_config=written) if written else SimpleNamespace()
    return SimpleNamespace(
        device_config=SimpleNamespace(device_type=device), kernel_config=SimpleNamespace(moe_backend=backend),
        model_config=SimpleNamespace(quantization=quantisation, hf_config=hf_config),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def eight_bits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU with FP8; call it with False for one without."""
    from vllm.platforms import current_platform

    def set_to(there: bool) -> None:
        monkeypatch.setattr(type(current_platform), "supports_fp8", classmethod(lambda cls: there))

    set_to(True)
    return set_to


CHOICES = [
    (None, {}, "triton"),
    ("fp8", {"weight_block_size": [128, 128], "activation_scheme": "dynamic"}, "triton"),
    ("fp8", {"activation_scheme": "static"}, "triton"),
    ("fp8", {"activation_scheme": "dynamic"}, "marlin"),
    ("fp8", {}, "marlin"),
    ("fp8_per_block", {}, "triton"),
    ("awq_marlin", {"bits": 4}, "marlin"),
    ("gptq_marlin", {"bits": 4}, "marlin"),
    ("moe_wna16", {"bits": 4}, "marlin"),
    ("mxfp4", {}, "marlin"),
    ("compressed-tensors", {"format": "pack-quantized"}, "marlin"),
    ("compressed-tensors", {"format": "float-quantized"}, "triton"),
    ("compressed-tensors", {"format": "a-later-one"}, "auto"),
    ("torchao", {}, "auto"),
]


@pytest.mark.parametrize(("quantisation", "written", "wanted"), CHOICES)
def test_the_choice_goes_by_quantisation(quantisation: str | None, written: dict[str, Any], wanted: str) -> None:
    made = config(quantisation, **written)
    choose(made)
    assert made.kernel_config.moe_backend == wanted
    for asked, device in (("flashinfer_cutlass", "cuda"), ("auto", "cpu")):
        made = config(quantisation, asked, device, **written)
        choose(made)
        assert made.kernel_config.moe_backend == asked


def test_a_gpu_without_fp8_computes_with_weights_alone(eight_bits: Any) -> None:
    eight_bits(False)
    assert backends(config("fp8", weight_block_size=[128, 128]).model_config) == ("marlin",)
    assert backends(config("compressed-tensors", format="float-quantized").model_config) == ("marlin",)
    assert backends(config("compressed-tensors", format="int-quantized").model_config) == ("triton",)
    assert backends(config(None).model_config) == ("triton",)


@pytest.mark.parametrize(("quantisation", "written", "_"), CHOICES)
def test_nobody_is_told_to_set_what_is_set(quantisation: str | None, written: dict[str, Any], _: str) -> None:
    for backend in {"auto", "triton", "marlin", "deep_gemm", *backends(config(quantisation, **written).model_config)}:
        says = advice(config(quantisation, backend, **written))
        assert f'"{backend}"' not in says
        assert "start the engine with" in says or "no other kernel is known" in says
    assert "moe_backend" not in advice(config(quantisation, device="cpu", **written))


def test_every_name_is_one_of_vllms() -> None:
    from vllm.config.kernel import MoEBackend
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert {name for name in BACKENDS if name} <= set(QUANTIZATION_METHODS)
    known = {name for names in (*BACKENDS.values(), *FORMATS.values()) for name in names}
    assert known | {"deep_gemm"} <= set(get_args(MoEBackend))


def test_vllm_takes_each_choice_for_its_quantisation() -> None:
    """Its tables of what a user may ask for, of each kind of weights."""
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import map_fp8_backend
    from vllm.model_executor.layers.fused_moe.oracle.int8 import map_int8_backend
    from vllm.model_executor.layers.fused_moe.oracle.int_wna16 import map_wna16_backend
    from vllm.model_executor.layers.fused_moe.oracle.mxfp4 import map_mxfp4_backend
    from vllm.model_executor.layers.fused_moe.oracle.nvfp4 import map_nvfp4_backend
    from vllm.model_executor.layers.fused_moe.oracle.unquantized import map_unquantized_backend

    for table, names in (
        (map_unquantized_backend, BACKENDS[None]),
        (map_fp8_backend, ("deep_gemm", *BACKENDS["fp8_per_channel"], *BACKENDS["fp8_per_tensor"])),
        (map_wna16_backend, (*BACKENDS["awq"], *FORMATS["pack-quantized"])),
        (map_mxfp4_backend, BACKENDS["mxfp4"]),
        (map_nvfp4_backend, BACKENDS["modelopt_fp4"]),
        (map_int8_backend, FORMATS["int-quantized"]),
    ):
        for name in names:
            assert table(name)
