"""The verbs: examples that run, one line for whatever goes wrong, and work that is not done twice."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from allocmoe import cli, records
from allocmoe import demo as pipeline
from allocmoe.evaluate import quality
from allocmoe.measure.protocol import Protocol
from allocmoe.methods import METHODS
from allocmoe.mini import resolve, shipped
from allocmoe.mini.items import TASKS
from allocmoe.plan import Plan
from allocmoe.profile.algorithm1 import Walk
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


ALLOCATE = ["allocate", MODEL, "--out", "TMP/plan.json"]
PROFILE = ["profile", MODEL, *TINY, "--out", "TMP/profile.json"]
EVAL = ["eval", MODEL, *TINY, "--items", "0", "--records", "TMP/records.jsonl"]
BENCH = ["bench", "olmoe-small", "--records", "TMP/records.jsonl"]
GATE = ["gate", "MADE/records.jsonl", "--baseline", "MADE/records.jsonl"]

BAD: dict[str, tuple[list[str], list[str]]] = {
    "no such folder": (["allocate", "nowhere"], ["no model folder at nowhere"]),
    "no config": (["models", "MADE/empty"], ["config.json", "No such file"]),
    "garbled config": (["models", "MADE/garbled"], ["config.json", "not valid JSON"]),
    "config is a list": (["models", "MADE/list"], ["does not hold a JSON object"]),
    "dense model": (["models", "MADE/dense"], ["'llama' has no routed experts"]),
    "dense model to profile": (["profile", "MADE/dense", "--out", "TMP/p.json"], ["no routed experts"]),
    "no weights": (["allocate", "MADE/weightless", "--out", "TMP/p.json"], ["no *.safetensors file"]),
    "corrupt weights": (["profile", "MADE/corrupt", "--out", "TMP/p.json"], ["cannot load the model"]),
    "truncated weights": (["eval", "MADE/truncated", "--records", "TMP/r.jsonl"], ["cannot load the model"]),
    "budget below L": ([*ALLOCATE, "--method", "uniform", "--budget", str(LEAST - 1)], [f"{LEAST}..{MOST}"]),
    "budget above L*K": ([*ALLOCATE, "--method", "uniform", "--budget", str(MOST + 1)], [f"{LEAST}..{MOST}"]),
    "budget not whole": ([*ALLOCATE, "--method", "uniform", "--budget", f"{LEAST}.5"], ["whole number"]),
    "budget not a number": ([*ALLOCATE, "--method", "uniform", "--budget", "nan"], ["whole number"]),
    "budget infinite": ([*ALLOCATE, "--method", "uniform", "--budget", "inf"], ["whole number"]),
    "budget of words": ([*ALLOCATE, "--method", "uniform", "--budget", "half"], ["--budget"]),
    "original at a budget": ([*ALLOCATE, "--method", "original", "--budget", str(LEAST)], ["original spends"]),
    "unknown method": ([*ALLOCATE, "--method", "magic"], ["unknown method 'magic'", "alloc-moe"]),
    "unknown normalisation": (
        [*ALLOCATE, "--normalize", "magic", "--profile", "MADE/profile.json"], ["magic", "ratio"],
    ),
    "unknown reference": ([*ALLOCATE, "--method", "uniform", "--reference", "magic"], ["unknown reference 'magic'"]),
    "negative k_base": ([*ALLOCATE, "--method", "alloc-t", "--k-base", "-1"], ["k_base"]),
    "negative seed": ([*ALLOCATE, "--method", "uniform", "--seed", "-1"], ["--seed"]),
    "profile of another model": ([*ALLOCATE, "--profile", "MADE/profile-foreign.json"], ["made for another model"]),
    "truncated profile": ([*ALLOCATE, "--profile", "MADE/profile-cut.json"], ["not a whole JSON document"]),
    "no such profile": ([*ALLOCATE, "--profile", "MADE/nothing.json"], ["No such file"]),
    "a plan for a profile": ([*ALLOCATE, "--profile", "MADE/plan.json"], ["allocmoe.sensitivity"]),
    "empty text": ([*PROFILE, "--text", "MADE/empty.txt"], ["0 tokens"]),
    "short text": ([*PROFILE, "--text", "MADE/short.txt"], ["less than one window of 32"]),
    "no UTF-8": ([*PROFILE, "--text", "MADE/latin.txt"], ["not UTF-8"]),
    "no archive": ([*PROFILE, "--text", "MADE/damaged.txt.xz"], ["damaged"]),
    "no such text": ([*PROFILE, "--text", "MADE/nothing.txt"], ["No such file", "mini-train"]),
    "no windows": ([*PROFILE, "--windows", "0"], ["--windows"]),
    "no batch": ([*EVAL, "--batch", "0"], ["--batch"]),
    "unknown dtype": ([*PROFILE, "--dtype", "float8"], ["unknown dtype 'float8'", "bfloat16"]),
    "unknown device": ([*PROFILE, "--device", "abacus"], ["no device 'abacus'"]),
    "unknown dtype to bench": ([*BENCH, "--dtype", "float8"], ["unknown dtype 'float8'"]),
    "unknown device to bench": ([*BENCH, "--device", "abacus"], ["no device 'abacus'"]),
    "truncated plan": ([*EVAL, "--plan", "MADE/plan-cut.json"], ["plan-cut.json", "not a whole JSON document"]),
    "no such plan": ([*EVAL, "--plan", "MADE/nothing.json"], ["nothing.json", "No such file"]),
    "a profile for a plan": ([*EVAL, "--plan", "MADE/profile.json"], ["allocmoe.plan"]),
    "plan of another model": ([*EVAL, "--plan", "MADE/plan-foreign.json"], ["for another model"]),
    "unknown task": ([*EVAL, "--items", "2", "--task", "no_such_task"], ["no task no_such_task", FIRST]),
    "negative items": ([*EVAL, "--items", "-1"], ["--items"]),
    "unknown shape": (["bench", "mixtral", "--records", "TMP/r.jsonl"], ["no shape 'mixtral'", "olmoe-small"]),
    "unknown method to bench": ([*BENCH, "--method", "magic"], ["unknown method 'magic'"]),
    "impossible budget to bench": ([*BENCH, "--method", "uniform", "--budget", "1"], ["budget 1 is outside"]),
    "one round": ([*BENCH, "--runs", "1"], ["--runs"]),
    "nothing to decode": ([*BENCH, "--decode", "0"], ["at least one"]),
    "truncated records": (["report", "MADE/records-cut.jsonl", "--out", "TMP/r.html"], ["line 2", "cut off"]),
    "no such records": (["report", "MADE/nothing.jsonl", "--out", "TMP/r.html"], ["nothing.jsonl", "No such file"]),
    "a plan for records": (["report", "MADE/plan.json", "--out", "TMP/r.html"], ["plan.json"]),
    "empty records": (["report", "MADE/empty.txt", "--out", "TMP/r.html"], ["no quality or speed record"]),
    "truncated records to gate": (["gate", "MADE/records-cut.jsonl", "--baseline", "MADE/records.jsonl"], ["cut off"]),
    "truncated baseline": (["gate", "MADE/records.jsonl", "--baseline", "MADE/records-cut.jsonl"], ["cut off"]),
    "no baseline": (["gate", "MADE/records.jsonl", "--baseline", "MADE/nothing.jsonl"], ["No such file"]),
    "a plan for a baseline": (["gate", "MADE/records.jsonl", "--baseline", "MADE/plan.json"], ["plan.json"]),
    "a plan for floors": ([*GATE, "--floors", "MADE/plan.json"], ["allocmoe.floors"]),
    "no such floors": ([*GATE, "--floors", "MADE/nothing.json"], ["No such file"]),
    "a margin of words": ([*GATE, "--margin", "decode=some"], ["METRIC=NUMBER"]),
    "a margin of nothing": ([*GATE, "--margin", "decode=0"], ["no margin decode=0", "above zero"]),
    "an unknown margin": ([*GATE, "--margin", "speed=3"], ["no margin speed=3", "perplexity"]),
    "no place for a summary": ([*GATE, "--summary", "MADE/file/s.md"], ["cannot write"]),
    "nothing to make a baseline": (["baseline", "MADE/empty.txt", "--to", "TMP/b.jsonl"], ["no quality or speed"]),
    "truncated new baseline": (["baseline", "MADE/records-cut.jsonl", "--to", "TMP/b.jsonl"], ["cut off"]),
    "no place for a baseline": (["baseline", "MADE/records.jsonl", "--to", "MADE/file/b.jsonl"], ["cannot write"]),
    "unknown verb": (["magic"], ["magic"]),
    "unknown option": (["models", "--magic"], ["--magic"]),
    "missing argument": (["allocate"], ["argument"]),
    "no place for a plan": (["allocate", MODEL, "--method", "uniform", "--out", "MADE/file/p.json"], ["cannot write"]),
    "no place for a profile": (["profile", MODEL, *TINY, "--out", "MADE/file/p.json"], ["cannot write"]),
    "no place for records": (["eval", MODEL, "--records", "MADE/file/r.jsonl"], ["cannot write"]),
    "no place for times": (["bench", "olmoe-small", "--records", "MADE/file/r.jsonl"], ["cannot write"]),
    "no place for a page": (["report", "MADE/records.jsonl", "--out", "MADE/file/r.html"], ["cannot write"]),
    "no place for a demo": (["demo", "--out", "MADE/file/demo", "--json"], ["cannot write"]),
}  # fmt: skip
BAD |= {
    f"{name} without a profile": ([*ALLOCATE, "--method", name], [f"{name} needs a profile"])
    for name, row in METHODS.items()
    if row.needs_profile
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_one_line_and_changes_nothing(name: str, made: Path, tmp_path: Path) -> None:
    args, says = BAD[name]
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    args = [a.replace("MADE", str(made)).replace("TMP", str(tmp_path)) for a in args]
    assert_refused(call(*args), *says)
    assert list(tmp_path.iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before


def test_a_bad_input_from_a_shell(made: Path) -> None:
    done = outside("models", made / "garbled", capture_output=True)
    assert_refused(Result(done.returncode, done.stdout, done.stderr), "not valid JSON")


def test_no_verb_prints_the_help() -> None:
    result = call()
    assert result.code == 2
    assert result.err == ""
    assert all(verb in result.out for verb in EXAMPLES)


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", good("--version").out)


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
    assert not path.exists()

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
    measure = quality._measure
    seen: list[str] = []

    def counting(engine: Any, plan: Plan, *args: Any) -> Any:
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(plan.digest)
        return measure(engine, plan, *args)

    monkeypatch.setattr(quality, "_measure", counting)
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
    assert not path.exists()


def test_allocate_starts_in_a_blink(made: Path, tmp_path: Path) -> None:
    """Nothing heavy is imported, not even for the method that reads a profile."""
    script = (
        "import sys\nfrom allocmoe.cli import main\nmain()\n"
        "print(*({'torch', 'transformers', 'lm_eval', 'scipy', 'pandas', 'plotly', 'vllm'} & set(sys.modules)))"
    )
    plan, profile = tmp_path / "plan.json", made / "profile.json"
    command = [sys.executable, "-c", script, "allocate", MODEL, "--profile", str(profile), "--out", str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert Plan.load(plan).method == "alloc-moe"


def document(*args: object) -> dict[str, Any]:
    """The one line of stdout, which is one JSON document; a run for a program has no progress bar."""
    result = good(*args, "--json")
    assert len(result.out.splitlines()) == 1
    assert result.out.endswith("\n")
    assert "|" not in result.err
    found = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


def test_json_of_models() -> None:
    found = document("models")
    assert [m["model"] for m in found["models"]] == shipped()
    assert found["methods"] == list(METHODS)
    assert document("models", MODEL)["models"][0]["budgets"] == SPEC.budgets()


def test_json_of_allocate(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    found = document("allocate", MODEL, "--profile", made / "profile.json", "--out", path)
    assert found["path"] == str(path)
    assert found["digest"] == Plan.load(path).digest
    assert found["budget"] == MOST // 2, "the default is half"
    assert document("allocate", MODEL, "--method", "original", "--out", path)["budget"] == MOST


def test_json_of_profile(tmp_path: Path) -> None:
    found = document("profile", MODEL, *TINY, "--out", tmp_path / "p.json")
    assert len(found["perplexity"]) == SPEC.layers
    assert found["evaluations"] == SPEC.layers * (SPEC.top_k - 1) + 1
    assert json.loads((tmp_path / "p.json").read_text()).items() <= found.items()


def test_json_of_eval(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    command = ["eval", MODEL, *TINY, "--plan", made / "plan.json", "--records", path]
    found = document(*command, "--items", 3, "--task", FIRST, "--task", SECOND)
    assert [r["method"] for r in found["results"]] == ["original", "uniform"]
    assert {"perplexity", f"acc/{FIRST}", f"acc/{SECOND}", f"group/{TASKS[FIRST].group}", "group/mean", "spent"} <= set(
        found["results"][0]
    )
    assert len(records.load(path)) == 2


def test_json_of_bench(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    short = ["--decode", 2, "--warmups", 0, "--runs", 2, "--batch", 1, "--prompt", 4]
    found = document("bench", "olmoe-small", "--method", "uniform", "--method", "alloc-t", "--records", path, *short)
    assert [r["method"] for r in found["results"]] == ["original", *["uniform", "alloc-t"] * 4]
    assert found["results"][0]["decode_speedup"] == [1.0, 1.0, 1.0]
    assert len(records.load(path)) == 9


def test_json_of_report(made: Path, tmp_path: Path) -> None:
    found = document("report", made / "records.jsonl", "--out", tmp_path / "page.html")
    assert found["page"] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8").rstrip().endswith("</html>")


def examples() -> dict[str, str]:
    """Verb -> the example of its help, in the order in which they are declared: each reads what one before wrote."""
    found = {}
    for command in cli.app.registered_commands:
        assert command.callback is not None
        said = re.search(r"Example: \[bold\]allocmoe (.*?)\[/bold\]", command.callback.__doc__ or "")
        assert said, f"the help of {command.callback.__name__} has no example"
        found[command.callback.__name__] = said[1]
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("verb", EXAMPLES)
def test_help_has_an_example(verb: str) -> None:
    shown = " ".join(re.sub(r"[│|]", " ", good(verb, "--help").out).split())
    assert f"Example: allocmoe {EXAMPLES[verb]}" in shown
    assert EXAMPLES[verb].split()[0] == verb


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("verb", EXAMPLES)
def test_the_example_runs(verb: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if verb == "demo":  # as typed, but minutes shorter; its own test is elsewhere
        small = Protocol(batch=1, prompt=4, decode=2, warmups=0, runs=2)
        monkeypatch.setattr(pipeline, "QUICK", pipeline.Size(calibration=1, windows=2, items=2, protocol=small))
        monkeypatch.setattr(pipeline, "METHODS", {n: METHODS[n] for n in ("original", "uniform", "alloc-moe")})
    monkeypatch.chdir(workplace)
    result = call(*shlex.split(EXAMPLES[verb]))
    assert result.code == (2 if verb == "gate" else 0), result.err  # one session of bench cannot show a speed
    assert result.out
    assert "Traceback" not in result.err
    for option in ("--out", "--records"):
        words = shlex.split(EXAMPLES[verb])
        if option in words:
            assert Path(words[words.index(option) + 1]).exists()
