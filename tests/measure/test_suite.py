"""The suite of a commit: what it measures, that it resumes, and that it never mixes commits."""

from __future__ import annotations

import json
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe import mini, records
from allocmoe.errors import AllocMoEError
from allocmoe.measure import run as running
from allocmoe.measure import suite as suites
from allocmoe.measure.protocol import Protocol
from allocmoe.measure.run import run
from allocmoe.measure.suite import SUITES, Suite, chosen
from allocmoe.measure.tracked import shares, values
from allocmoe.methods import for_windows

TINY = Suite(
    models=("mini-olmoe",), timed=(("transformers", "mini-olmoe"),), methods=("uniform", "alloc-moe"), windows=2,
    items=0, calibration_windows=1, protocol=Protocol(2, 4, 2, 0, 2), starts=2,
)  # fmt: skip
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "head.jsonl"
    run(TINY, path, progress=False)
    return path


@pytest.mark.whole
def test_a_whole_measurement(measured: Path) -> None:
    found = records.load(measured)
    profile = found.pop(0)
    assert (profile.about, profile.details["digest"]) == ("profile", found[2].details["origin"]["profile"])
    assert [(r.about, r.method, r.budget) for r in found] == [
        (about, method, budget)
        for about in ("quality", "speed", "speed")
        for method, budget in (("original", 128), ("uniform", 64), ("alloc-moe", 64))
    ]
    sessions = [r.setup["session"] for r in found if r.about == "speed"]
    assert len(set(sessions)) == 2
    assert sessions == sorted(sessions, key=sessions.index), "one after the other"
    plans = {r.plan for r in found if r.method == "alloc-moe"}
    assert len(plans) == 1, "quality and speed are of the same plan"
    assert {r.environment.get("commit", {}).get("hash") for r in found} == {(records.commit() or {}).get("hash")}


@pytest.mark.whole
def test_what_is_there_is_not_measured_again(measured: Path) -> None:
    before = measured.read_bytes()
    run(TINY, measured, progress=False)
    assert measured.read_bytes() == before


@pytest.mark.whole
def test_one_more_start_adds_one_session(measured: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.jsonl"
    path.write_bytes(measured.read_bytes())
    run(replace(TINY, starts=3), path, progress=False)
    assert path.read_bytes().startswith(measured.read_bytes())
    assert len(records.load(path)) == len(records.load(measured)) + 3


@pytest.mark.whole
def test_another_commits_file_is_refused(measured: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    first = json.loads(measured.read_text().splitlines()[0])
    first["environment"]["commit"] = {"hash": "f" * 40, "date": "2026-01-01T00:00:00+00:00", "dirty": False}
    path.write_text(json.dumps(first) + "\n")
    with pytest.raises(AllocMoEError, match=r"holds measurements of commit ffffffffffff.*file of its own"):
        run(TINY, path, progress=False)
    assert len(path.read_text().splitlines()) == 1


CHANGED = [{"dirty": True, "changes": letter * 16} for letter in "ab"]


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ({"dirty": False}, CHANGED[0], "commit 000000000000, but this is 000000000000 with changes aaaaaaaa"),
        (CHANGED[1], CHANGED[0], "with changes bbbbbbbb, but this is 000000000000 with changes aaaaaaaa"),
        (None, None, "commit unknown, of version 0.0.1, but this is unknown, of version"),
    ],
)
@pytest.mark.whole
def test_another_state_of_the_code_is_refused(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: Any, now: Any, says: str
) -> None:
    """The same commit with other changes on top is other code; where no commit is known, the version must do."""
    path, base = tmp_path / "other.jsonl", {"hash": "0" * 40, "date": "2026-01-01T00:00:00+00:00"}
    first = json.loads(measured.read_text().splitlines()[0])
    first["environment"]["commit"] = then and base | then
    first["environment"]["versions"]["allocmoe"] = "0.0.1"
    path.write_text(json.dumps(first) + "\n")
    monkeypatch.setattr("allocmoe.records.origin.commit", lambda: now and base | now)
    with pytest.raises(AllocMoEError, match=says):
        run(TINY, path, progress=False)
    assert len(path.read_text().splitlines()) == 1


def test_the_pull_requests_suite_times_the_embedded_model_without_quality() -> None:
    suite = chosen(str(Path(__file__).parents[2] / "bench/pull-request.json"))
    assert (suite.models, suite.timed) == ((), (("transformers", "mini-olmoe"),))
    assert suite.protocol.runs == 40
    assert suite.calibration_windows == SUITES["small"].calibration_windows, "the plans of the quality measured before"


def test_asv_names_a_budget_by_the_share_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps({"shares": [0.3, 0.75]}))
    monkeypatch.setenv("ALLOCMOE_SUITE", str(path))
    asked = runpy.run_path(str(Path(__file__).parents[2] / "bench/suite/measured.py"))["asked"]
    assert [asked(budget / 128) for budget in (38, 96, 128)] == [0.3, 0.75, 1.0]


@pytest.mark.whole
def test_values_are_those_of_the_records(measured: Path) -> None:
    found = records.load(measured)
    table = dict(values(found))
    quality = next(r for r in found if r.about == "quality" and r.method == "alloc-moe")
    at = ("mini-olmoe", "alloc-moe", 0.5, "transformers")
    assert table["perplexity", *at] == quality.metrics["perplexity"]
    assert table["activations", *at] == pytest.approx(64)
    assert table["activations", "mini-olmoe", "original", 1.0, "transformers"] == 128
    seconds = [s for r in found if r.about == "speed" and r.method == "alloc-moe" for s in r.samples["decode_s"]]
    assert table["decode_ms", *at] == {"samples": pytest.approx([500 * s for s in seconds]), "number": 1}
    assert len(seconds) == 4
    relative = table["decode_relative", *at]
    timed = [r for r in found if r.about == "speed" and r.method in ("original", "alloc-moe")]
    pairs = [[r.samples["decode_s"] for r in timed if r.setup["session"] == s.setup["session"]] for s in timed[::2]]
    expected = [100 * math.sqrt(mine[0] / base[0] * mine[1] / base[1]) for base, mine in pairs]
    assert relative == {"samples": pytest.approx(expected), "number": 1}, "of two rounds the median is the mean"
    assert table["prefill_relative", "mini-olmoe", "original", 1.0, "transformers"]["samples"] == [100, 100]
    speed = {"prefill_ms", "decode_ms", "prefill_relative", "decode_relative", "distinct_experts"}
    assert {key[0] for key in table} == {"perplexity", "kl", "flips", "activations", *speed}


def dies(*_: Any) -> None:
    os._exit(3)


@pytest.mark.whole
def test_a_session_that_dies_is_an_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "head.jsonl"
    monkeypatch.setattr(running, "timed", dies)
    with pytest.raises(AllocMoEError, match=r"process of transformers with mini-olmoe died"):
        run(replace(TINY, starts=1, methods=("uniform",)), path, progress=False)
    *whole, failed = records.load(path)
    assert [r.about for r in whole] == ["quality", "quality"]
    assert failed.about == "failure"
    assert "process of transformers with mini-olmoe died" in failed.details["error"]
    assert failed.environment.get("commit") == records.commit()


@pytest.mark.whole
@pytest.mark.parametrize(
    "kills", [1, pytest.param(int(os.environ.get("ALLOCMOE_KILLS", "3")), marks=pytest.mark.slow, id="more")]
)
def test_killed_at_any_moment_it_resumes(kills: int, tmp_path: Path) -> None:
    """Once; three times in `make test-all`, where ALLOCMOE_KILLS=50 makes it fifty, each at a random moment."""
    waits = {1: [6.0], 3: [0.5, 4.0, 6.0]}.get(kills) or [random.Random(kill).uniform(0, 12) for kill in range(kills)]
    starts = (1 if kills == 1 else 2) + kills // 5  # there is work left for the last of them
    path, settings = tmp_path / "head.jsonl", tmp_path / "suite.json"
    settings.write_text(json.dumps({
        "models": ["mini-olmoe"], "timed": [["transformers", "mini-olmoe"]], "methods": ["uniform"], "windows": 2,
        "items": 0, "protocol": {"batch": 2, "prompt": 4, "decode": 2, "warmups": 0, "runs": 2}, "starts": starts,
    }))  # fmt: skip
    command = [sys.executable, "-m", "allocmoe.cli", "measure", "--suite", str(settings), "--records", str(path)]
    seen = 0
    for wait in waits:
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        whole = records.resume(path)
        assert len(whole) >= seen
        seen = len(whole)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [r.method for r in records.load(path)] == ["original", "uniform"] * (1 + starts)
    assert json.loads(done.stdout.splitlines()[-1])["records"] == str(path)


def test_the_suites_are_sound() -> None:
    small, paper = SUITES["small"], SUITES["paper"]
    assert set(small.models) == set(mini.shipped())
    assert set(small.methods) == set(paper.methods) == set(for_windows())
    assert paper.protocol == Protocol(8, 32, 128, 5, 10), "the paper's"
    assert (paper.device, len(paper.models), len(paper.timed)) == ("cuda", 3, 6)
    assert paper.shares is None, "each model's own"
    assert shares(paper) == [0.875, 0.8333, 0.75, 0.6667, 0.625, 0.5, 0.3333], "of 128, 96 and 156"
    assert shares(replace(small, shares=(1 / 3, 0.5))) == [0.5, 0.3333]


@pytest.mark.whole
def test_without_shares_it_measures_the_papers_budgets(tmp_path: Path) -> None:
    tiny = replace(TINY, models=("mini-deepseek",), timed=(), methods=("uniform",), shares=None, starts=0)
    found = run(tiny, tmp_path / "head.jsonl", progress=False)
    assert [r.budget for r in found] == [156, 130, 104, 78, 52]
    assert {key[3] for key, _ in values(found)} == {1.0, 0.8333, 0.6667, 0.5, 0.3333}


def test_a_suite_is_chosen_by_name_variable_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(suites.VARIABLE, raising=False)
    assert chosen() == SUITES["small"]
    monkeypatch.setenv(suites.VARIABLE, "paper")
    assert chosen() == SUITES["paper"]
    assert chosen("small") == SUITES["small"]
    file = tmp_path / "own.json"
    file.write_text('{"models": ["a", "b"], "timed": [["vllm", "a"]], "shares": [0.25], "protocol": {"runs": 3}}')
    expected = replace(
        SUITES["small"], models=("a", "b"), timed=(("vllm", "a"),), shares=(0.25,), protocol=Protocol(runs=3)
    )
    assert chosen(str(file)) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "unknown fields"), ('{"model": "a"}', "unknown fields"), ("{", "no suite"),
        ('{"methods": ["best"]}', "cannot measure best"), ('{"timed": [["sglang", "a"]]}', "cannot measure sglang"),
        ('{"shares": [1.5]}', "between 0 and 1"), ('{"protocol": {"speed": 3}}', "cannot be understood"),
        ('{"models": "mini-olmoe"}', "models: 'mini-olmoe' is not of type 'array'"),
        ('{"timed": [["vllm"]]}', r"timed.0: \['vllm'\] is too short"), ('{"windows": "x"}', "windows: 'x' is not"),
        ('{"starts": "three"}', "starts: 'three' is not"), ('{"shares": ["a"]}', "shares.0: 'a' is not"),
        ('{"protocol": [1]}', "protocol"), ("[" * 100_000, "no suite"),
        ('{"seed": 1' + "0" * 23 + "}", "seed: 1000.* is greater than the maximum"),
        ('{"protocol": {"runs": 1' + "0" * 23 + "}}", "protocol.runs: 1000.* is greater than the maximum"),
        ('{"protocol": {"runs": 0}}', "at least one"), ('{"models": [], "timed": []}', "needs models"),
    ],
)  # fmt: skip
def test_a_suite_that_makes_no_sense(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(content)
    with pytest.raises(AllocMoEError, match=says) as caught:
        chosen(str(file))
    assert "\n" not in str(caught.value)


def test_no_such_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(suites.VARIABLE, "huge")
    with pytest.raises(AllocMoEError, match=r"no suite 'huge'.*small or paper, or a JSON file"):
        chosen()


def test_an_engine_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    both: Any = (("transformers", "mini-olmoe"), ("vllm", "mini-olmoe"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else object())
    assert suites.installed(replace(TINY, timed=both)).timed == both[:1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert suites.installed(replace(TINY, timed=both)).timed == both
