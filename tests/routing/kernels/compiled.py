"""Compiles the Triton kernels for sm_90, which needs no GPU: the interpreter accepts what the compiler refuses.

`test_cuda` runs this in its own process. As a program it prints what ptxas says of each kernel and shape:
`python -m tests.routing.kernels.compiled`.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from allocmoe.routing.kernels.cuda_prefix import alloc_t_kernel, alloc_t_round_kernel, alone_kernel
from allocmoe.routing.kernels.cuda_within import prune_kernel, within_kernel

H100 = GPUTarget("cuda", 90, 32)
POINTERS = {
    "valid": "*i1", "norms": "*fp32", "logits": "*fp32", "bias": "*fp32", "counts": "*i32", "stays": "*fp64",
    "first": "*fp64", "second": "*fp64", "k": "*fp64", "k_base": "*fp64", "pairs": "*fp64", "limit": "*fp64",
    "cap": "*fp64",
}  # fmt: skip
EVERYWHERE = {"HAS_VALID": True, "DROPPED": -1}
PLAIN = {"FUNCTION": "softmax", "RENORMALISE": False, "SCALE": 1.0, "GROUPS": 1, "GP": 1, "OPEN": 1, "HAS_BIAS": False}
GROUPED = {"FUNCTION": "sigmoid", "RENORMALISE": True, "SCALE": 2.5, "GROUPS": 8, "GP": 8, "OPEN": 4, "HAS_BIAS": True}


class Case(NamedTuple):
    kernel: Any
    warps: int
    shape: dict[str, Any]
    weights: str = "fp32"
    ids: str = "i32"


class Built(NamedTuple):
    """What came out: PTX, and what ptxas says."""

    ptx: str
    registers: int
    spilled: int


def cases() -> Iterator[Case]:
    for rule in ("all", "top_k", "mass", "naee", "adapmoe", "score"):
        yield Case(alone_kernel, 4, {"K": 8, "KP": 8, "BLOCK": 128, "RULE": rule, "WIDTH": 8})
    yield Case(alone_kernel, 4, {"K": 8, "KP": 8, "BLOCK": 128, "RULE": "score", "WIDTH": 8, "NORMS": True})
    yield Case(alone_kernel, 4, {"K": 1, "KP": 1, "BLOCK": 128, "RULE": "mass", "WIDTH": 1}, "bf16", "i64")
    yield Case(alone_kernel, 4, {"K": 16, "KP": 16, "BLOCK": 64, "RULE": "adapmoe", "WIDTH": 16}, "fp16", "i64")
    for K, KP, block in ((1, 1, 128), (6, 8, 64), (8, 8, 512), (16, 16, 256)):
        for norms in (False, True):
            sizes = {"K": K, "KP": KP, "BLOCK": block, "NORMS": norms}
            yield Case(alloc_t_kernel, 4 if KP * block <= 1024 else 8, sizes)
    for turn in range(5):
        yield Case(alloc_t_round_kernel, 8, {"K": 8, "KP": 8, "BLOCK": 512, "ROUND": turn, "NORMS": turn % 2 == 0})
    for base, cap in (("top_k", False), ("top_k", True), ("alloc_t", False), ("given", False)):
        for N, NP, rows in ((60, 128, 8), (160, 256, 4), (384, 512, 2)):
            sizes = {"N": N, "NP": NP, "K": 8, "KP": 8, "BLOCK": 64, "ROWS": rows, "BASE": base, "CAP": cap}
            yield Case(within_kernel, 4, {**sizes, **PLAIN})
        yield Case(within_kernel, 4, {**sizes, "N": 256, "NP": 256, "ROWS": 1, **GROUPED}, "bf16")
    sizes = {"N": 512, "NP": 512, "K": 16, "KP": 16, "BLOCK": 256, "ROWS": 1, "BASE": "alloc_t", "CAP": False}
    yield Case(within_kernel, 4, {**sizes, **PLAIN})
    yield Case(within_kernel, 4, {**sizes, **PLAIN, "NORMS": True})
    yield Case(within_kernel, 4, {**sizes, **PLAIN, "N": 1, "NP": 128, "K": 1, "KP": 1, "BLOCK": 128})
    for K, KP, N, NP in ((8, 8, 64, 128), (6, 8, 60, 128), (16, 16, 512, 512)):
        for renormalise in (False, True):
            sizes = {"N": N, "NP": NP, "K": K, "KP": KP}
            yield Case(prune_kernel, 4, {**sizes, "RENORMALISE": renormalise, "ROUNDING": 1 / 64})


def built(case: Case) -> Built:
    """Compiles one; whatever Triton or ptxas raises comes through."""
    constants = {"NORMS": False, **case.shape, **EVERYWHERE}
    weights = dict.fromkeys(("weights", "out_weights"), f"*{case.weights}")
    ids = dict.fromkeys(("ids", "out_ids", "given"), f"*{case.ids}")
    kinds = {**POINTERS, **weights, **ids, "T": "i32", "BLOCKS": "i32"}
    signature = {name: "constexpr" if name in constants else kinds[name] for name in case.kernel.arg_names}
    source = ASTSource(case.kernel, signature, {n: v for n, v in constants.items() if n in case.kernel.arg_names})
    made = triton.compile(source, H100, options={"num_warps": case.warps, "enable_fp_fusion": False})
    ptx = made.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        said = subprocess.run(
            [get_ptxas(H100.arch).path, "-v", "--gpu-name=sm_90a", str(path), "-o", str(Path(folder, "out"))],
            capture_output=True, text=True, check=False,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", said)
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
    assert registers, said
    return Built(ptx, int(registers[1]), spilled)


def first_of_its_kind() -> Iterator[Case]:
    seen = set()
    for case in cases():
        kind = (
            case.kernel.__name__,
            *(case.shape.get(name) for name in ("RULE", "BASE", "CAP")),
            case.shape.get("ROUND") == 4,
        )
        if kind not in seen:
            yield case
        seen.add(kind)


CASES = list(cases() if os.environ.get("ALLOCMOE_KERNEL_SHAPES") == "all" else first_of_its_kind())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel.__name__} {case.shape}")
def test_it_compiles_as_it_is_meant(case: Case) -> None:
    result = built(case)
    assert result.spilled <= 64, "a few registers at most go through memory"
    assert not re.search(r"\bfma\.", result.ptx), "the torch rules round after every operation"
    if case.kernel in (alone_kernel, alloc_t_kernel, alloc_t_round_kernel):
        assert ".ftz" not in result.ptx, "subnormal scores count"
    if case.shape.get("RULE") == "naee":
        assert set(re.findall(r"\bdiv[.\w]+f32", result.ptx)) == {"div.rn.f32"}, "as torch divides"
    if case.kernel is within_kernel and case.weights == "bf16":
        assert "cvt.rn.bf16.f32" in result.ptx, "weights are rounded and not cut off"
    if case.kernel is alloc_t_kernel:
        assert f"0d{struct.pack('>d', 1e-6).hex().upper()}" in result.ptx, "the allowance for rounding is a float64"


if __name__ == "__main__":
    for case in cases():
        result = built(case)
        print(case.kernel.__name__, case.warps, case.shape, case.weights, case.ids, end=": ")
        print(result.registers, "registers,", result.spilled, "bytes spilled")
