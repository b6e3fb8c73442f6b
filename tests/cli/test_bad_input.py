"""Whatever is wrong is one line on stderr, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from calls import FIRST, LEAST, MODEL, MOST, TINY, Result, assert_refused, call, outside
from calls import made as made

from allocmoe.methods import METHODS

pytestmark = pytest.mark.whole

ALLOCATE = ["allocate", MODEL, "--out", "TMP/plan.json"]
PROFILE = ["profile", MODEL, *TINY, "--out", "TMP/profile.json"]
EVAL = ["eval", MODEL, *TINY, "--items", "0", "--records", "TMP/records.jsonl"]
BENCH = ["bench", "olmoe-small", "--records", "TMP/records.jsonl"]
TUNE = ["tune", MODEL, "--out", "TMP/t"]
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
    "a text for a shape without a tokenizer": ([*BENCH, "--text", "mini-test"], ["no tokenizer", "olmoe-wide"]),
    "no model to fit": (["fit", "nowhere", "--records", "TMP/r.jsonl"], ["no model folder at nowhere"]),
    "unknown engine to fit": (["fit", MODEL, "--engine", "magic"], ["unknown engine 'magic'"]),
    "no place for costs": (["fit", MODEL, "--records", "MADE/file/r.jsonl"], ["cannot write"]),
    "no wish": (["tune", MODEL, "--out", "TMP/t"], ["--speedup 1.5, --max-loss 1%"]),
    "a slower wish": ([*TUNE, "--speedup", "0.9"], ["a speedup must be above 1"]),
    "a loss of nothing": ([*TUNE, "--max-loss", "a bit"], ["a rise of perplexity like 1%"]),
    "no model to tune": (["tune", "nowhere", "--speedup", "2", "--out", "TMP/t"], ["no model folder at nowhere"]),
    "no text to choose on": ([*TUNE, "--speedup", "2", "--text", "MADE/nothing.txt"], ["No such file", "mini-test"]),
    "a short text to choose on": ([*TUNE, "--speedup", "2", "--text", "MADE/short.txt"], ["one window of 256"]),
    "a short calibration": ([*TUNE, "--speedup", "2", "--calibration", "MADE/short.txt"], ["one window of 256"]),
    "a shape of another kind": ([*TUNE, "--speedup", "2", "--shape", "olmoe-small"], ["do not fit the shape"]),
    "a shape of other layers": ([*TUNE, "--speedup", "2", "--shape", "deepseek-wide"], ["do not fit the shape"]),
    "too many sequences": ([*TUNE, "--speedup", "2", "--batch", "1000000"], ["--batch", "1024"]),
    "no time": ([*TUNE, "--speedup", "2", "--minutes", "0"], ["minutes must be above 0"]),
    "a method that no fit prices": ([*TUNE, "--speedup", "2", "--method", "naee"], ["no fit times", "top_k"]),
    "small passes alone": ([*TUNE, "--max-loss", "1 points", "--method", "oea"], ["prefill"]),
    "a task for a loss that has none": (["tune", MODEL, "--speedup", "2", "--task", "x", "--out", "TMP/t"], ["points"]),
    "no place to tune": (["tune", MODEL, "--speedup", "2", "--out", "MADE/file/t"], ["cannot write"]),
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
    "an option of another method": (
        [*ALLOCATE, "--method", "uniform", "--set", "pairs=2"], ["uniform has no option pairs"],
    ),
    "k_base of another method": (
        [*ALLOCATE, "--method", "uniform", "--k-base", "2"], ["uniform has no option k_base"],
    ),
    "normalisation of another method": (
        [*ALLOCATE, "--method", "uniform", "--normalize", "log"], ["uniform has no option normalize"],
    ),
    "an unknown margin": ([*GATE, "--margin", "speed=3"], ["no metric 'speed'", "perplexity"]),
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
