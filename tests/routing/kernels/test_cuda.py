"""The Triton kernels, each way in a process of its own: whether Triton interprets is settled when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
ROOT = Path(__file__).parents[3]


def passes(file: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "0", "--tb", "short",
         str(Path(__file__).with_name(file))],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.whole
def test_interpreted_they_are_their_reference() -> None:
    passes("interpreted.py", TRITON_INTERPRET="1")


@pytest.mark.whole
def test_they_compile_for_sm_90(tmp_path: Path) -> None:
    passes("compiled.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_interpreted_at_length() -> None:
    passes("interpreted.py", TRITON_INTERPRET="1", ALLOCMOE_KERNEL_SEEDS="20")


@pytest.mark.slow
def test_every_shape_compiles(tmp_path: Path) -> None:
    passes("compiled.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path), ALLOCMOE_KERNEL_SHAPES="all")
