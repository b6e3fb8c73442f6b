"""The command line from within a test, and in a process of its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from allocmoe import cli
from allocmoe.mini import resolve
from allocmoe.mini.items import TASKS
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec

MODEL = "mini-olmoe"
FIRST, SECOND = list(TASKS)[:2]
SPEC = MoESpec.from_folder(resolve(MODEL))
LEAST, MOST = SPEC.layers, SPEC.original_budget
TINY = ["--windows", "2", "--window", "32", "--batch", "1"]
torch.set_num_threads(1)  # many small products: more threads only wait for each other


class Result(NamedTuple):
    code: int
    out: str
    err: str


def call(*args: object) -> Result:
    """The command line `allocmoe ARGS`, in this process."""
    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["allocmoe", *map(str, args)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return Result(code, out.getvalue(), err.getvalue())


def outside(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "allocmoe.cli", *map(str, args)]
    return subprocess.run(command, text=True, env=environment, timeout=120, check=False, **options)


def assert_refused(result: Result, *says: str) -> None:
    """Not 0, one line, and no traceback."""
    assert result.code == 2
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err + result.out
    for word in says:
        assert word in result.err


def good(*args: object) -> Result:
    result = call(*args)
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what the verbs read, good and bad. Nothing in it is written by a test."""
    folder = tmp_path_factory.mktemp("made")
    good("profile", MODEL, *TINY, "--out", folder / "profile.json")
    good("allocate", MODEL, "--method", "uniform", "--out", folder / "plan.json")
    good("eval", MODEL, *TINY, "--items", 0, "--plan", folder / "plan.json", "--records", folder / "records.jsonl")

    mark = Plan.load(folder / "plan.json").fingerprint
    for name in ("profile", "plan"):
        text = (folder / f"{name}.json").read_text()
        (folder / f"{name}-foreign.json").write_text(text.replace(mark, "0" * 16))
        (folder / f"{name}-cut.json").write_text(text[: len(text) // 2])
    lines = (folder / "records.jsonl").read_bytes()
    (folder / "records-cut.jsonl").write_bytes(lines[:-40])

    (folder / "empty").mkdir()
    for name, config in (
        ("garbled", '{"model_type": "olm'),
        ("list", "[1, 2]"),
        ("weightless", (resolve(MODEL) / "config.json").read_text()),
        ("dense", json.dumps({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8})),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(config)
    for name in ("corrupt", "truncated"):
        shutil.copytree(resolve(MODEL), folder / name)
        weights = folder / name / "model.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(b"\xff" * 4096 if name == "corrupt" else data[: len(data) // 2])

    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("Tom had a ball.")
    (folder / "latin.txt").write_bytes("señora ".encode("latin-1") * 500)
    (folder / "damaged.txt.xz").write_bytes(b"no archive")
    (folder / "file").write_text("a regular file")
    return folder
