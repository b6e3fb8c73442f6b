"""Which of vLLM's expert kernels to ask for, per quantisation, and what to advise where one is refused.

vLLM chooses for speed. Its first choice often routes by itself, and then no plan can be served; so a plan asks for one
that takes the router's answer and is meant to skip. Whether it does is for the probe to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocmoe.engines.vllm.refuse import SUPPORTED

WEIGHTS_ALONE = ("marlin",)  # activations stay as they are, so no scale is shared between tokens
FP8, FP8_BLOCKS = ("triton", "marlin"), ("triton", "deep_gemm", "marlin")
BACKENDS: dict[str | None, tuple[str, ...]] = {
    None: ("triton",),
    **dict.fromkeys(("awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq", "moe_wna16"), WEIGHTS_ALONE),
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4"), ("marlin", "triton_unfused")),
    **dict.fromkeys(("fp8_per_tensor", "modelopt_fp4"), WEIGHTS_ALONE),
    "fp8_per_channel": FP8, "modelopt": FP8, "fp8_per_block": FP8_BLOCKS,
}  # fmt: skip
"""Quantisation, as vLLM names it -> values of moe_backend, best first. What is not here is left to vLLM."""
FORMATS: dict[str, tuple[str, ...]] = {
    "pack-quantized": WEIGHTS_ALONE, "nvfp4-pack-quantized": WEIGHTS_ALONE, "float-quantized": FP8,
    "int-quantized": ("triton",),
}  # fmt: skip
"""The same for compressed-tensors checkpoints, by their format."""


def backends(model_config: Any) -> tuple[str, ...]:
    """Values of `moe_backend` that may serve a plan on a GPU, best first; () where none is known."""
    from vllm.platforms import current_platform

    quantisation = model_config.quantization
    written = getattr(model_config.hf_config, "quantization_config", None)
    read: Mapping[str, Any] = written if isinstance(written, Mapping) else {}
    if quantisation == "compressed-tensors":
        known = FORMATS.get(str(read.get("format")), ())
    elif quantisation == "fp8" and read.get("weight_block_size"):
        known = FP8_BLOCKS
    elif quantisation == "fp8":  # made while loading, it has one dynamic scale for all tokens
        known = FP8 if read.get("activation_scheme") == "static" else WEIGHTS_ALONE
    else:
        known = BACKENDS.get(quantisation, ())
    return WEIGHTS_ALONE if known in (FP8, FP8_BLOCKS) and not current_platform.supports_fp8() else known


def choose(config: Any) -> None:
    """Ask for a kernel in a VllmConfig whose user asked for none, where it is known which."""
    kernels: Any = getattr(config, "kernel_config", None)
    if config.device_config.device_type == "cuda" and getattr(kernels, "moe_backend", None) == "auto":
        kernels.moe_backend = next(iter(backends(config.model_config)), "auto")


def advice(config: Any) -> str:
    """What to do where an engine's kernel was refused: never what is done already."""
    if config.device_config.device_type != "cuda":
        return f"use float32 or bfloat16 weights, and vLLM {SUPPORTED}"
    asked = getattr(getattr(config, "kernel_config", None), "moe_backend", "auto")
    others = [name for name in backends(config.model_config) if name != asked]
    if others:
        return "start the engine with " + " or ".join(f'moe_backend="{name}"' for name in others)
    return "no other kernel is known for these weights: serve them without a plan, or others"
