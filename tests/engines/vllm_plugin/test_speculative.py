"""Speculative decoding: draft tokens that are verified are tokens of the pass, and take their part of its budget."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allocmoe.methods import allocate
from allocmoe.spec import MoESpec, fingerprint
from tests.engines.vllm_plugin import oracle
from tests.engines.vllm_plugin.drafting import PROMPTS, TOKENS

pytestmark = pytest.mark.vllm
SCRIPT = Path(__file__).with_name("drafting.py")
K = (3.25, 4.75)  # of every two layers, not whole: so that rounding down shows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What engines with and without an n-gram proposer did under the same plans."""
    place = tmp_path_factory.mktemp("drafts")
    folder = oracle.checkpoint("olmoe", place / "olmoe")
    spec, mark = MoESpec.from_folder(folder), fingerprint(folder)
    half = spec.original_budget // 2
    uniform = allocate("uniform", spec, mark, half)
    plans = {
        "shared": replace(allocate("alloc-t", spec, mark, half), layers=K * 8),
        "uniform": uniform,
        "ragged": replace(uniform, token_rule="naee", parameters={"threshold": (0.5,) * spec.layers}),
    }
    assert [plan.rule.alone for plan in plans.values()] == [False, True, True]
    for name, plan in plans.items():
        plan.save(place / f"{name}.json")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, *(place / f"{name}.json" for name in plans)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_tokens_decided_by_themselves_come_out_as_without_drafts(run: dict[str, Any]) -> None:
    assert 0 < run["accepted"] < run["verified"], "there must be drafts of both kinds"
    assert run["undrafted"][0] != run["undrafted"][1], "the plans change nothing"
    assert run["drafted"] == run["undrafted"]
    assert {len(tokens) for plan in run["drafted"] for tokens in plan} == {TOKENS}


def test_drafts_are_tokens_of_the_pass(run: dict[str, Any]) -> None:
    """Every pass spends floor(k T) in each layer, where T counts each request's drafts with its token."""
    last = {"verified": 0, "tokens": [0] * 16, "activations": [0] * 16}
    for number, now in enumerate(run["passes"]):
        tokens = now["requests"] + now["verified"] - last["verified"] if number else sum(map(len, PROMPTS))
        assert now["tokens"] == [was + tokens for was in last["tokens"]]
        spent = [was + math.floor(K[layer % 2] * tokens) for layer, was in enumerate(last["activations"])]
        assert now["activations"] == spent
        last = now
    assert len(run["passes"]) < TOKENS, "no draft was accepted"
    assert 0 < last["accepted"] < last["verified"], "there must be drafts of both kinds"
