"""The scripts of bench/ as command lines: what is wrong is one line, as the verbs tell it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SCRIPTS = [path for path in BENCH.rglob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")]


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_every_script_tells_its_errors_as_the_verbs_do(path: Path) -> None:
    assert re.search(r"^    script\(main\)$", path.read_text("utf-8"), re.MULTILINE)


@pytest.mark.whole
def test_a_wrong_model_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCH.parent)}
    command = [sys.executable, str(BENCH / "channels.py"), "--model", "nope"]
    done = subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no model folder at nope")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
