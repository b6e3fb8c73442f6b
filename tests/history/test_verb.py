"""`allocmoe history`: a line per change and gap, whatever the input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from past import MACHINE, past, quality

from allocmoe import records
from allocmoe.cli import main

BAD = "07" * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files with a history, the second with decode missing at two commits and a record without a commit."""
    place = tmp_path_factory.mktemp("history")
    lost = {"0a" * 20, "0b" * 20}
    for number, record in enumerate(past()):
        if record.about == "quality" or record.environment["commit"]["hash"] not in lost:
            records.append(place / f"{number % 2}.jsonl", record)
    records.append(place / "1.jsonl", quality(3, environment=MACHINE))
    return place


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code, argv = 0, sys.argv
    sys.argv = ["allocmoe", "history", *map(str, args)]
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    said = capsys.readouterr()
    return code, said.out, said.err


def shell(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "allocmoe.cli", "history", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_changes_gaps_and_a_sentence(folder: Path):
    done = shell(folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(f"{BAD}  2026-01-08  worse ")] == lines[:2]
    assert any("perplexity of alloc-moe at 64 (mini-olmoe · mini-test): 4.9 -> 5.047, +3.0%, exact" in t for t in lines)
    assert any("decode time over the original's of alloc-t at 64" in t and ", p = " in t for t in lines)
    assert lines[2] == "0a0a0a0a0a  2026-01-11  not measured, 2 commits to the newest  4 series of mini-olmoe"
    assert lines[3] == "10 series over 12 commits; 2 changes"
    assert "timed series" in lines[4]
    assert "1 of 85 records do not say which commit" in " ".join(done.stderr.split())


def test_json_is_the_same_history(folder: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = call(capsys, folder / "0.jsonl", folder / "1.jsonl", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out.splitlines()[-1])
    assert (found["series"], found["commits"], found["records_without_commit"]) == (10, 12, 1)
    assert {(c["method"], c["metric"], c["commit"], c["direction"]) for c in found["changes"]} == {
        ("alloc-moe", "perplexity", "07" * 20, "worse"), ("alloc-t", "decode", "07" * 20, "worse"),
    }  # fmt: skip
    assert {tuple(g["commits"]) for g in found["gaps"]} == {("0a" * 20, "0b" * 20)}


def test_only_the_worse_and_only_the_larger(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for n in range(4):
        records.append(tmp_path / "better.jsonl", quality(n, metrics={"perplexity": 5.0 - (n > 1)}))
    assert "better" in call(capsys, tmp_path)[1]
    assert call(capsys, tmp_path, "--worse-only")[1] == "2 series over 4 commits; 0 changes\n"
    out = call(capsys, folder, "--min-change", "perplexity=3.5", "--min-change", "decode=50")[1]
    assert "12 commits; 0 changes" in out


def test_nothing_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    infinite = [quality(n, metrics={"group/mean": 0.5 * (n > 0)}) for n in range(2)]
    for record in infinite:
        records.append(tmp_path / "r.jsonl", record)
    (change,) = json.loads(call(capsys, tmp_path, "--json")[1])["changes"]
    assert change["relative"] is None
    (tmp_path / "r.jsonl").write_text("")
    assert call(capsys, tmp_path)[:2] == (0, "0 series over 0 commits; 0 changes\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nothing.jsonl"], "No such file"),
        (["empty"], "holds no records"),
        (["bad.jsonl"], "line 1"),
        (["date.jsonl"], "expected ISO 8601"),
        (["date.jsonl", "--min-change", "speed=1"], "names no metric"),
        (["date.jsonl", "--min-change", "decode"], "METRIC=PERCENT"),
        (["date.jsonl", "--min-change", "decode=-1"], "METRIC=PERCENT"),
        (["date.jsonl", "--min-change", "decode=nan"], "METRIC=PERCENT"),
        ([], "files"),
    ],
)
def test_bad_input_is_one_line_and_2(args: list[str], says: str, tmp_path: Path, capsys: Any):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text("{}\n")
    wrong = replace(quality(0), environment={**MACHINE, "commit": {"hash": "ab", "date": "soon"}})
    records.append(tmp_path / "date.jsonl", wrong)
    code, out, err = call(capsys, *(tmp_path / a if "." in a or a == "empty" else a for a in args))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert says in err
