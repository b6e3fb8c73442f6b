"""Tensor and expert parallelism: every rank routes alike, and the result is that of one rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocmoe.methods import allocate
from allocmoe.spec import MoESpec, fingerprint
from tests.engines.vllm_plugin import oracle

pytestmark = pytest.mark.vllm
SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What one rank and two ranks of each kind did under the same plans."""
    place = tmp_path_factory.mktemp("ranks")
    folder = oracle.checkpoint("olmoe", place / "olmoe")
    spec, plans = MoESpec.from_folder(folder), []
    for method in ("original", "uniform", "alloc-t"):
        budget = spec.original_budget if method == "original" else spec.original_budget // 2
        plan = allocate(method, spec, fingerprint(folder), budget)
        plan.save(place / f"{method}.json")
        plans.append(place / f"{method}.json")
    found = {}
    for name, ranks, kind in (("one", "1", "tensor"), ("tensor", "2", "tensor"), ("expert", "2", "expert")):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join((str(SCRIPT.parent), *sys.path)), "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # all requests in the first step
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, SCRIPT, ranks, kind, folder, *plans], env=environment, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = json.loads(done.stdout.splitlines()[-1])["plans"]
    return found


@pytest.mark.parametrize("kind", ["tensor", "expert"])
def test_two_ranks_route_alike(runs: dict[str, list[dict[str, Any]]], kind: str) -> None:
    for run in runs[kind]:
        first, second = run["routing"]
        assert len(first) == 16 * 4, "16 layers, one pass of prefill and three of decode"
        assert first == second, run["method"]
        assert run["spent"][0] == run["spent"][1]
        kept = [sum(expert >= 0 for row in layer for expert in row) for layer in first]
        per_token = 16 * 8 if run["method"] == "original" else 16 * 4
        assert sum(kept) == per_token * sum(len(layer) for layer in first) / 16


@pytest.mark.parametrize("kind", ["tensor", "expert"])
def test_two_ranks_compute_what_one_does(runs: dict[str, list[dict[str, Any]]], kind: str) -> None:
    for alone, together in zip(runs["one"], runs[kind], strict=True):
        assert alone["method"] == together["method"]
        for one, two in zip(alone["logprobs"], together["logprobs"], strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)
        assert alone["tokens"] == together["tokens"]
    plain, budgeted = runs[kind][0]["logprobs"][0], runs[kind][2]["logprobs"][0]
    assert np.abs(np.subtract(plain, budgeted)).max() > 1e-3, "the plan changed nothing"
