"""The verb analyse: its JSON, its second run, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calls import MODEL, MOST, assert_refused, call, good

from allocmoe import records

pytestmark = pytest.mark.whole
SMALL = ["--windows", 2, "--window", 32, "--batch", 1, "--items", 0, "--calibration-windows", 2]


def test_json_of_analyse(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    command = ["analyse", MODEL, *SMALL, "--analysis", "load", "--analysis", "entropy", "--records", path, "--json"]
    found = json.loads(good(*command).out)
    assert found["records"] == str(path)
    assert {r["analysis"] for r in found["results"]} == {"load", "entropy"}
    assert {"spearman_least", "divergence_most"} <= set(found["results"][1]["metrics"])
    assert found["results"][0]["budget"] == MOST
    written = path.read_bytes()
    assert json.loads(good(*command).out) == found
    assert path.read_bytes() == written, "nothing is measured twice"
    assert len(records.load(path)) == len(found["results"])


def test_what_other_files_hold_is_not_measured_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    command = ["analyse", MODEL, *SMALL, "--analysis", "token_rules"]
    good(*command, "--records", first)
    said = good(
        *command, "--records", second, "--beside", first, "--profile", next((tmp_path / "first.profiles").iterdir())
    )
    assert not second.exists()
    assert "token_rules" in said.out
    assert "Figures 6 and 11" in said.err


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    command = ["analyse", MODEL, *SMALL, "--records", tmp_path / "r.jsonl"]
    assert_refused(call(*command, "--analysis", "dice"), "unknown analysis 'dice'", "load, entropy")
    assert_refused(call(*command, "--text", tmp_path / "none.txt"), "cannot read the text")
    assert_refused(call(*command, "--profile", tmp_path / "none.json"), "none.json")
    assert_refused(call(*command, "--beside", tmp_path / "none.jsonl"), "none.jsonl")
    assert_refused(call(*command, "--task", "dice", "--items", 2), "dice")
    assert not (tmp_path / "r.jsonl").exists()
