"""The verbs gate and baseline, in this process and from a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from measured import COMMIT, ENVIRONMENT, measured, slower

from allocmoe import cli, records
from allocmoe.records import Record

pytestmark = pytest.mark.whole

Files = dict[str, Path]


def write(path: Path, found: list[Record]) -> Path:
    for record in found:
        records.append(path, record)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Records of a quiet baseline, and of measurements that pass, regressed and are too noisy."""
    folder = tmp_path_factory.mktemp("gate")
    made = {"old": measured(0), "new": measured(1), "slow": slower(measured(1), 1.1), "noisy": measured(1, 3, 0.1)}
    return {name: write(folder / f"{name}.jsonl", found) for name, found in made.items()}


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["allocmoe", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("new", 0, "gate: pass (13 pass)"), ("slow", 1, "regressed: worse by"), ("noisy", 2, "could not measure: too")],
)
def test_the_verdict_is_the_exit_code(call, files, name, code, says):
    found, out, err = call("gate", files[name], "--baseline", files["old"])
    assert found == code
    assert says in out
    assert err == ""


def test_the_exit_code_reaches_a_shell(files):
    command = [sys.executable, "-m", "allocmoe.cli", "gate", files["slow"], "--baseline", files["old"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "mini/uniform/64/decode" in done.stdout


def test_json_and_summaries(call, files, tmp_path, monkeypatch):
    path, other = tmp_path / "summary.md", tmp_path / "other.md"
    path.write_text("# earlier\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    code, out, _ = call("gate", files["slow"], "--baseline", files["old"], "--json")
    assert code == json.loads(out)["code"] == 1
    assert len(out.splitlines()) == 1
    assert path.read_text().startswith("# earlier\n### Gate: regressed")
    before = path.read_text()
    call("gate", files["new"], "--baseline", files["old"], "--summary", other)
    assert other.read_text().startswith("### Gate: pass")
    assert path.read_text() == before


def test_a_comment_is_written_with_the_commits_before(call, files, tmp_path):
    path, later = tmp_path / "comment.md", {**COMMIT, "hash": "e" * 40, "date": "2031-01-01T00:00:00+00:00"}
    moved = [replace(r, environment={**r.environment, "commit": later}) for r in slower(measured(1), 1.1)]
    head = write(tmp_path / "head.jsonl", moved)
    code, _, err = call("gate", head, "--baseline", files["old"], "--comment", path, "--history", files["old"])
    assert (code, err) == (1, "")
    assert path.read_text().startswith("### allocmoe: regressed (")
    assert "▁█" in path.read_text(), "two commits, and the later one is slower"
    call("gate", head, "--baseline", files["old"], "--comment", path)
    assert "▁" not in path.read_text()


def test_margins_and_floors(call, files, tmp_path):
    wide = ("--margin", "decode=20", "--margin", "prefill=20")
    assert call("gate", files["slow"], "--baseline", files["old"], *wide)[0] == 0
    floors = tmp_path / "floors.json"
    rows = {"mini/uniform/64/decode": 1.25}
    floors.write_text(json.dumps({"kind": "allocmoe.floors", "version": 1, "rows": rows}))
    assert call("gate", files["new"], "--baseline", files["old"], "--floors", floors)[0] == 0
    code, out, _ = call("gate", files["slow"], "--baseline", files["old"], *wide, "--floors", floors)
    assert code == 1
    assert "is below its floor of 1.25" in out


def test_across_machines(call, files, tmp_path):
    moved = [replace(r, environment=ENVIRONMENT | {"processor": "new"}) for r in measured(1)]
    path = write(tmp_path / "moved.jsonl", moved)
    assert "1 pass" not in call("gate", path, "--baseline", files["old"])[1]
    code, out, _ = call("gate", path, "--baseline", files["old"], "--across-machines")
    assert code == 2
    assert 'across machines: processor "some" against "new"' in out
    assert "9 pass" in out


def test_a_baseline_is_shown_and_replaced(call, files, tmp_path):
    path = tmp_path / "baselines" / "cpu.jsonl"
    code, out, _ = call("baseline", files["old"], "--to", path)
    assert code == 0
    assert path.read_bytes() == files["old"].read_bytes()
    code, out, _ = call("baseline", files["slow"], "--to", path, "--check")
    assert code == 0
    assert "gate: regressed" in out
    assert "left as it was" in out
    assert path.read_bytes() == files["old"].read_bytes()
    code, out, _ = call("baseline", files["slow"], "--to", path, "--json")
    assert code == 0
    assert json.loads(out)["replaced"] is True
    assert path.read_bytes() == files["slow"].read_bytes()
    assert os.listdir(path.parent) == [path.name]


def test_a_baseline_of_nothing_or_of_two_commits_is_refused(call, files, tmp_path):
    path = tmp_path / "cpu.jsonl"
    path.write_bytes(files["old"].read_bytes())
    two = [replace(r, environment=ENVIRONMENT | {"commit": COMMIT | {"hash": "b" * 40}}) for r in measured(1)]
    mixed = write(tmp_path / "mixed.jsonl", [*measured(1), *two])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for bad, says in ((mixed, "mixes commits"), (empty, "holds no quality or speed record")):
        code, out, err = call("baseline", bad, "--to", path)
        assert code == 2
        assert out == ""
        assert says in err
        assert len(err.splitlines()) == 1
    assert path.read_bytes() == files["old"].read_bytes()


def test_what_nobody_foresaw_is_one_line_and_no_regression(call, files, monkeypatch):
    def break_(*_: object) -> None:
        raise RuntimeError("odd \ud800 word")

    monkeypatch.setattr("allocmoe.gate.compare", break_)
    code, out, err = call("gate", files["new"], "--baseline", files["old"])
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "unexpected RuntimeError: odd \\ud800 word" in err
    monkeypatch.setenv("ALLOCMOE_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        call("gate", files["new"], "--baseline", files["old"])
