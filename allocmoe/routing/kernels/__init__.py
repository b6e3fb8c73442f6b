"""Token rules in one launch, beside their reference: compiled loops on a CPU, Triton on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Fused = Callable[..., Any]
"""Of (rule, numbers, scoring, weights, ids, valid, logits, dropped): weights and ids with dropped pairs marked out, or
None for a rule or a pass that it has no form of."""


def fused_on(device: torch.device) -> Fused | None:
    """The form for a device, None where what it needs is not installed."""
    if device.type == "cpu" and find_spec("numba"):
        from allocmoe.routing.kernels import cpu

        return cpu.fused
    if device.type == "cuda" and find_spec("triton"):
        from allocmoe.routing.kernels import cuda

        return cuda.fused
    return None
