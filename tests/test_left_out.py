"""Where vLLM is not installed its tests are left out, which is said, and is an error where they must run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOME = "tests/engines/vllm_plugin/test_distribution.py"


def without_vllm(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest as if vLLM were not installed, also in the processes that it starts."""
    (folder / "hidden.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ALLOCMOE_"))}
    inherited["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-p", "hidden", "-p", "no:cacheprovider", *arguments, SOME]
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.mark.whole
@pytest.mark.parametrize("jobs", ["0", "1"])
def test_they_are_counted(jobs: str, tmp_path: Path) -> None:
    done = without_vllm(tmp_path, "--numprocesses", jobs)
    assert done.returncode == 0, done.stdout
    said, result = done.stdout.splitlines()[-2:]
    assert said.startswith("2 tests of vLLM were left out")
    assert 'PIP_EXTRA_INDEX_URL="$PYTORCH_CPU_INDEX" make test' in said
    assert "2 skipped" in result


@pytest.mark.whole
def test_where_they_must_run_it_is_an_error(tmp_path: Path) -> None:
    done = without_vllm(tmp_path, ALLOCMOE_REQUIRE_VLLM="1")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "vLLM must be tested here and is not installed" in done.stderr
    assert "passed" not in done.stdout
