"""Faults put into real commits on purpose: what do the gate and the history say of each?

    python bench/injected.py --out runs/injected --records reports/records/injected.jsonl

In a scratch clone of this checkout: some commits that change nothing, then on a branch each a commit that drops
one expert too many, one that ignores the plan, one that makes a pass of a planned layer 5 % slower, and one that
breaks the engine, each followed by commits that change nothing. Every commit is measured by its own code with
`allocmoe measure`; the gate compares each faulty commit with the last sound one, the history sees its whole
branch. Run again after an interruption, it goes on. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from allocmoe import records
from allocmoe.cli import script
from allocmoe.records import Record

LAYER, ENGINE = "allocmoe/engines/planned.py", "allocmoe/engines/hf.py"
HERE = Path(__file__).parents[1]
# name -> file, what it has, what the fault makes of it, the gate's exit code that is expected
FAULTS = {
    "drops-one-more": (LAYER, "in plan.numbers(layer).items()}\n", "in plan.numbers(layer).items()}\n"
                       '        numbers["k"] = max(1, numbers["k"] - 1)\n', 1),
    "ignores-the-plan": (ENGINE, "        self.plan = plan\n", "        self.revert()\n        self.plan = plan\n", 1),
    "five-percent-slower": (
        ENGINE,
        "            if rule is not None:\n",
        "            if rule is not None:\n"
        "                now = time.perf_counter()\n"
        "                gap = now - getattr(self, 'last_call', now)\n"
        # not the original's, which all times are relative to
        "                slow = self.plan is not None and self.plan.method != 'original'\n"
        "                while slow and gap < 0.1 and time.perf_counter() < now + 0.05 * gap:\n"
        "                    pass\n"
        "                self.last_call = time.perf_counter()\n",
        1,
    ),
    "breaks-the-engine": (ENGINE, "        self.plan = plan\n", "        raise RuntimeError('broken on purpose')\n", 2),
}  # fmt: skip
QUALITY = {
    "models": ["mini-olmoe"], "timed": [], "methods": ["uniform", "alloc-t"], "windows": 16, "items": 0, "starts": 0,
}  # fmt: skip
SPEED = {
    **QUALITY, "timed": [["transformers", "mini-olmoe"]], "methods": ["alloc-t"],
    "protocol": {"batch": 8, "prompt": 32, "decode": 8, "warmups": 2, "runs": 40},
}  # fmt: skip


def git(folder: Path, *words: str, at: int = 0) -> str:
    """A git command in the clone; `at` numbers the commits, a minute apart."""
    date = f"2026-01-01T{at // 60:02d}:{at % 60:02d}:00+00:00"
    who = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER")
           for part, value in (("NAME", "bench"), ("EMAIL", "bench@example.org"), ("DATE", date))}  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env={**os.environ, **who}
    )
    return done.stdout.strip()


def commit(folder: Path, at: int, subject: str) -> str:
    """A commit with whatever was changed, or with a line in a file that nothing reads."""
    with (folder / "allocmoe/py.typed").open("a") as file:
        file.write(f"# {subject} {at}\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", subject, at=at)
    return git(folder, "rev-parse", "HEAD")


def build(clone: Path, before: int, after: int) -> None:
    """The clone with its branches; what an interruption left of one is made anew."""
    part = clone.with_name("clone.unfinished")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "-q", str(HERE), str(part)], check=True)
    for number in range(before):
        commit(part, number, "sound")
    git(part, "branch", "-f", "sound")
    for fault, (path, has, gets, _) in FAULTS.items():
        git(part, "checkout", "-qB", fault, "sound")
        text = (part / path).read_text()
        assert text.count(has) == 1, f"{path} no longer has the line that {fault} changes"
        (part / path).write_text(text.replace(has, gets))
        for number in range(before, before + 1 + after):
            commit(part, number, fault if number == before else "sound")
    part.rename(clone)


def measure(folder: Path, suite: Path, to: Path, starts: int) -> None:
    """Measure the clone's present commit with its own code; a fault may well make that fail."""
    subprocess.run(
        [sys.executable, "-m", "allocmoe.cli", "measure", "--suite", str(suite), "--starts", str(starts),
         "--records", str(to), "--json"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, check=False, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def verb(*words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON answer of one of this checkout's verbs."""
    done = subprocess.run(
        [sys.executable, "-m", "allocmoe.cli", *words, "--json"], check=False, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {"error": done.stderr.strip()}


def main(
    out: Annotated[Path, typer.Option(help="Folder for the clone and the records.")] = Path("runs/injected"),
    to: Annotated[Path, typer.Option("--records", help="Records file to append the outcome to.")] = Path("r.jsonl"),
    before: Annotated[int, typer.Option(help="Sound commits before the faults.")] = 6,
    after: Annotated[int, typer.Option(help="Commits after each fault, which keep it.")] = 3,
    starts: Annotated[int, typer.Option(help="Engine starts of a commit that is timed.")] = 12,
    only: Annotated[list[str] | None, typer.Option(help="A fault; repeat. Default: all.")] = None,
) -> None:
    """Put faults into commits, measure every commit, and ask the gate and the history."""
    clone = out.resolve() / "clone"
    if not clone.exists():
        build(clone, before, after)
    for name, suite in (("quality", QUALITY), ("speed", SPEED)):
        (out / f"{name}.json").write_text(json.dumps(suite))
    log = {fault: git(clone, "log", "--reverse", "--format=%H", f"-{before + 1 + after}", fault).split()
           for fault in FAULTS if not only or fault in only}  # fmt: skip
    results: dict[str, Any] = {}
    for fault, hashes in log.items():
        timed = fault == "five-percent-slower"
        files = [out.resolve() / f"{'speed' if timed else 'quality'}-{h[:12]}.jsonl" for h in hashes]
        for h, file in zip(hashes, files, strict=True):
            git(clone, "checkout", "-q", h)
            measure(clone, out.resolve() / f"{'speed' if timed else 'quality'}.json", file, starts if timed else 0)
        code, _ = verb("gate", str(files[before]), "--baseline", str(files[before - 1]))
        _, history = verb("history", *(str(f) for f in files if f.exists()))
        named = sorted({c["commit"] for kind in ("changes", "gaps") for c in history.get(kind, [])})
        results[fault] = {"exit": code, "expected": FAULTS[fault][3], "faulty": hashes[before], "named": named}
        print(fault, results[fault])
    right = {fault: r["exit"] == r["expected"] and r["named"] == [r["faulty"]] for fault, r in results.items()}
    metrics = {f"{fault}/{name}": float(value) for fault, r in results.items()
               for name, value in (("exit", r["exit"]), ("named_alone", r["named"] == [r["faulty"]]))}  # fmt: skip
    setup = {"before": before, "after": after, "starts": starts, "quality": QUALITY, "speed": SPEED}
    records.append(to, Record("gate", "mini-olmoe", "", None, None, None, setup, metrics, details=results))
    print(json.dumps({"right": right, **results}))
    sys.exit(not all(right.values()))


if __name__ == "__main__":
    script(main)
