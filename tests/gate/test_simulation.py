"""The simulation of the gate's errors, on a pool whose noise is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from measured import session

from allocmoe import records

SCRIPT = Path(__file__).parents[2] / "bench/simulate_gate.py"


def simulate(noise: Path, to: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--noise", noise, "--records", to, "--runs", "8", "--sessions", "4,6", *more]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


@pytest.mark.parametrize(("noise", "caught"), [(0.001, "regressed"), (0.3, "unmeasured")])
@pytest.mark.whole
def test_a_slowdown_is_caught_in_quiet_and_not_measured_in_noise(tmp_path: Path, noise: float, caught: str) -> None:
    pool, to = tmp_path / "pool.jsonl", tmp_path / "gate.jsonl"
    for number in range(6):
        for record in session(0, number, noise):
            records.append(pool, record)
    done = simulate(pool, to)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])
    (record,) = records.load(to)
    assert record.about == "gate"
    assert record.metrics == metrics
    assert record.details["pool"] == 6
    assert metrics[f"halves/3/{'passed' if noise < 0.01 else 'unmeasured'}"] >= 0.85
    for size in (4, 6):
        assert metrics[f"slower/{size}/{caught}"] >= 0.85
        assert metrics[f"less_accurate/{size}/regressed"] == 1
        assert metrics[f"nothing/{size}/{'passed' if noise < 0.01 else 'unmeasured'}"] >= 0.85
        assert sum(metrics[f"nothing/{size}/{o}"] for o in ("passed", "regressed", "unmeasured")) == pytest.approx(1)


def test_a_pool_of_two_sessions_is_refused(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    for number in range(2):
        for record in session(0, number, 0.01):
            records.append(pool, record)
    done = simulate(pool, tmp_path / "gate.jsonl")
    assert done.returncode != 0
    assert "needs three speed sessions" in done.stderr
    assert not (tmp_path / "gate.jsonl").exists()
