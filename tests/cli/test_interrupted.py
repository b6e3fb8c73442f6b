"""A full disk, Ctrl-C and a crash lose nothing, and no work is done twice."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from calls import LEAST, MODEL, MOST, SPEC, TINY, Result, assert_refused, call, good, outside
from calls import made as made

from allocmoe import records
from allocmoe.evaluate.quality import Measurer
from allocmoe.plan import Plan
from allocmoe.profile.algorithm1 import Walk

pytestmark = pytest.mark.whole


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    good("allocate", MODEL, "--method", "uniform", "--out", path)
    before = path.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full_disk)
            result = call("allocate", MODEL, "--method", "uniform", "--budget", LEAST, "--out", path)
        assert_refused(result, "cannot write", "No space left")
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_earlier_records(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes((made / "records.jsonl").read_bytes())
    monkeypatch.setattr(os, "fsync", full_disk)
    result = call("eval", MODEL, *TINY, "--items", 0, "--seed", 1, "--records", path, "--json")
    assert_refused(result, "cannot write", "No space left")
    assert path.read_bytes() == (made / "records.jsonl").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout() -> None:
    with open("/dev/full", "w") as full:
        done = outside("models", "--json", stdout=full, stderr=subprocess.PIPE)
    assert_refused(Result(done.returncode, "", done.stderr), "No space left")


def test_an_interrupted_profile_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branches, calls = Walk.branches, 0

    def counting(self: Walk, layer: int) -> Any:
        nonlocal calls
        calls += 1
        if stop and calls == stop:
            raise KeyboardInterrupt
        return branches(self, layer)

    monkeypatch.setattr(Walk, "branches", counting)
    path, partial = tmp_path / "profile.json", tmp_path / "profile.json.partial"
    command = ["profile", MODEL, *TINY, "--out", path, "--json"]
    stop = SPEC.layers + 5  # within the second of two batches
    result = call(*command)
    assert result.code == 130
    assert result.err == "interrupted: run the same command again to go on\n"
    assert result.out == ""
    assert partial.exists()
    assert "perplexity" not in json.loads(path.read_text())["quantities"], "what was finished is kept, and no more"

    calls, stop = 0, 0
    good(*command)
    assert calls == 2 * SPEC.layers - (SPEC.layers + 4)
    assert not partial.exists()

    calls, whole = 0, tmp_path / "whole.json"
    good("profile", MODEL, *TINY, "--out", whole)
    assert calls == 2 * SPEC.layers
    assert whole.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["profile.json", "whole.json"]


def test_an_interrupted_eval_measures_what_is_missing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measurer.measure
    seen: list[str] = []

    def counting(measurer: Measurer, plan: Plan, part: str) -> Any:
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(plan.digest)
        return measure(measurer, plan, part)

    monkeypatch.setattr(Measurer, "measure", counting)
    plans = [tmp_path / f"{budget}.json" for budget in SPEC.budgets()[:3]]
    for plan in plans:
        good("allocate", MODEL, "--method", "uniform", "--budget", plan.stem, "--out", plan)
    path = tmp_path / "records.jsonl"
    command = ["eval", MODEL, *TINY, "--items", 0, "--records", path, "--json"]
    command += [part for plan in plans for part in ("--plan", plan)]
    stop = 2
    result = call(*command)
    assert result.code == 130
    assert result.err == "interrupted: run the same command again to go on\n"
    kept = records.load(path)
    assert [r.plan for r in kept] == seen
    assert len(kept) == 2

    stop = 100
    found = json.loads(good(*command).out)["results"]
    assert len(seen) == len(set(seen)) == 4
    assert [r.plan for r in records.load(path)] == seen
    assert records.load(path)[:2] == kept
    assert [(r["method"], r["budget"]) for r in found] == [
        ("original", MOST), *(("uniform", int(p.stem)) for p in plans),
    ]  # fmt: skip
    assert json.loads(good(*command).out)["results"] == found
    assert len(seen) == 4


def test_a_record_cut_off_by_a_crash_is_set_aside(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes((made / "records-cut.jsonl").read_bytes())
    good("eval", MODEL, *TINY, "--items", 0, "--plan", made / "plan.json", "--records", path)
    assert [r.plan for r in records.load(path)] == [r.plan for r in records.load(made / "records.jsonl")]
    assert path.with_name("records.jsonl.cut").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
@pytest.mark.whole
def test_ctrl_c_from_a_shell(tmp_path: Path) -> None:
    path, partial = tmp_path / "profile.json", tmp_path / "profile.json.partial"
    command = [sys.executable, "-m", "allocmoe.cli", "profile", MODEL, "--out", str(path), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # a shell starts background jobs with SIGINT ignored, which the child would inherit
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed) as process:
        deadline = time.monotonic() + 120
        while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted: run the same command again to go on\n"
    assert json.loads(partial.read_text())["done"] >= 1
    assert "perplexity" not in json.loads(path.read_text())["quantities"]
