"""How often the gate errs, from really measured noise: false alarms, and what it catches.

    python bench/simulate_gate.py --noise sessions.jsonl --runs 1000 --records reports/records/gate.jsonl

Both sides of the gate are drawn from the same pool of speed sessions, of one commit or of several that differ in
nothing that is measured: sessions with replacement, and within each session its rounds with replacement (a round
keeps its original and its methods together). To them come results on `--items` items of the first method, of
which `--flips` change between the two measurements. Three cases are judged by the gate as it is: nothing changed;
the first method takes `--slowdown` longer; the first method loses 1 point of accuracy. And once with nothing drawn: the
pool itself, in two random halves of whole sessions ("halves"). Perplexity, which has no noise on one machine, is
left out: it could only add tests to Holm's family.

A pool of few sessions understates how far sessions differ, by (n - 1) / n in the variance.

The last line of stdout is one JSON document.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from allocmoe import documents, gate, records, stats
from allocmoe.cli import script
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import METRICS
from allocmoe.records import Record

ORIGINAL = "original"
LOSS = 0.01
OUTCOMES = ("passed", "regressed", "unmeasured")  # by exit code
Session = list[Record]


def main(
    noise: Annotated[list[Path], typer.Option(help="Records with speed sessions; repeat for commits that are alike.")],
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    runs: int = 1000,
    sessions: Annotated[str, typer.Option(help="Sessions a side, with commas.")] = "4,8,12,16,20",
    flips: Annotated[float, typer.Option(min=0, max=0.5, help="Share of items that change by chance.")] = 0.0,
    items: Annotated[int, typer.Option(min=100)] = 1000,
    slowdown: Annotated[float, typer.Option(help="Of the first method, in percent.")] = 3.0,
    margin: Annotated[list[str] | None, typer.Option(help="As `allocmoe gate` has it; repeat.")] = None,
    seed: int = 0,
) -> None:
    """Simulate, print a table, append a record."""
    pool = load(noise)
    sizes = [int(size) for size in sessions.split(",")]
    margins, factor = gate.read_margins(margin or []), 1 + slowdown / 100
    if min(sizes) < 2 or runs < 1:
        raise AllocMoEError("a simulation needs a run or more, and two sessions or more a side")
    gc.freeze()  # statsmodels collects garbage in every call, which costs more than all the rest
    metrics: dict[str, float] = {}
    for name in ("prefill_s", "decode_s"):  # of what a session says, on the log scale; all plans alike
        said = [[stats.session_median(r.samples[name], s[0].samples[name]) for r in s[1:]] for s in pool]
        metrics[f"session_sd/{name[:-2]}"] = float(np.sqrt(np.var(said, axis=0, ddof=1).mean()))
    half, rng = len(pool) // 2, np.random.default_rng(seed)
    apart = []
    for _ in tqdm(range(runs if half >= 2 else 0), desc=f"halves of {half} sessions", disable=None):
        order = rng.permutation(len(pool))
        one, other = ([r for i in order[start : start + half] for r in pool[i]] for start in (0, half))
        apart.append(gate.compare(one, other, margins).code)
    for code, outcome in enumerate(OUTCOMES):
        metrics[f"halves/{half}/{outcome}"] = apart.count(code) / max(1, len(apart))
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        codes: dict[str, list[int]] = {}
        for _ in tqdm(range(runs), desc=f"{size} sessions a side", disable=None):
            for case, code in judged(pool, size, flips, items, factor, margins, rng).items():
                codes.setdefault(case, []).append(code)
        for case, found in codes.items():
            for code, outcome in enumerate(OUTCOMES):
                metrics[f"{case}/{size}/{outcome}"] = found.count(code) / runs
    first = pool[0][0]
    record = Record(
        about="gate",
        model=first.model,
        fingerprint=first.fingerprint,
        method=None,
        budget=None,
        plan=None,
        setup={
            "runs": runs, "sessions": sizes, "flips": flips, "items": items, "slowdown": factor, "loss": LOSS,
            "margins": {n: m.margin for n, m in METRICS.items()} | margins, "seed": seed,
            "protocol": {k: v for k, v in first.setup.items() if k != "session"},
        },
        metrics=metrics,
        details={
            "pool": len(pool),
            "rounds": len(pool[0][0].samples["decode_s"]),
            "methods": [f"{r.method}/{r.budget}" for r in pool[0]],
            "noise": documents.digest([[r.samples for r in session] for session in pool]),
            "measured_on": first.environment,
        },
    )  # fmt: skip
    records.append(to, record)
    show(metrics, sizes, runs, slowdown)
    print(json.dumps(metrics))


def load(paths: Sequence[Path]) -> list[Session]:
    """The whole sessions of some files, each with the original first and the same plans in the same order, as if
    all were of the first one's commit.

    Raises AllocMoEError for fewer than three (they would all look alike), or a session without a plan of the others.
    """
    found: dict[str, Session] = {}
    every = [record for path in paths for record in records.load(path) if record.about == "speed"]
    for record in every:
        environment = {**record.environment, "commit": every[0].environment.get("commit")}
        found.setdefault(record.setup["session"], []).append(replace(record, environment=environment))
    pool = [sorted(s, key=lambda r: (r.method != ORIGINAL, str(r.method), r.budget)) for s in found.values()]
    plans = {tuple((r.method, r.budget) for r in s) for s in pool}
    if len(pool) < 3 or len(plans) != 1 or len(pool[0]) < 2 or pool[0][0].method != ORIGINAL:
        names = ", ".join(map(str, paths))
        raise AllocMoEError(f"{names} needs three speed sessions or more, all with the original and the same methods")
    return pool


def judged(
    pool: Sequence[Session], size: int, flips: float, items: int, factor: float, margins: Mapping[str, float],
    rng: np.random.Generator,
) -> dict[str, int]:  # fmt: skip
    """Case -> exit code of the gate, on one draw of both sides; `factor` is what the slower method's times become."""
    old, new = (drawn(pool, size, rng) for _ in range(2))
    chosen = pool[0][1]
    before = (rng.uniform(size=items) < 0.75).astype(int)
    after = np.where(rng.uniform(size=items) < flips, 1 - before, before)
    worse = after.copy()
    worse[rng.choice(np.flatnonzero(after), math.ceil(LOSS * items), replace=False)] = 0
    slow = [slower(r, factor) if (r.method, r.budget) == (chosen.method, chosen.budget) else r for r in new]
    old = [*old, answers(chosen, before)]
    cases = {
        "nothing": [*new, answers(chosen, after)],
        "slower": [*slow, answers(chosen, after)],
        "less_accurate": [*new, answers(chosen, worse)],
    }
    return {case: gate.compare(mine, old, margins).code for case, mine in cases.items()}


def drawn(pool: Sequence[Session], size: int, rng: np.random.Generator) -> list[Record]:
    """`size` sessions with resampled rounds, each under a name of its own."""
    found = []
    for number, which in enumerate(rng.integers(0, len(pool), size)):
        rounds = len(pool[which][0].samples["decode_s"])
        chosen = rng.integers(0, rounds, rounds)
        for r in pool[which]:
            samples = {name: [seconds[i] for i in chosen] for name, seconds in r.samples.items()}
            found.append(replace(r, setup={**r.setup, "session": f"{number:04d}"}, samples=samples))
    return found


def slower(record: Record, factor: float) -> Record:
    """The record with all its times longer."""
    return replace(record, samples={name: [factor * s for s in times] for name, times in record.samples.items()})


def answers(plan: Record, correct: np.ndarray) -> Record:
    """A quality record of one task, [items] of 0 and 1."""
    task = {"ids": list(range(len(correct))), "correct": correct.tolist()}
    return replace(plan, about="quality", setup={}, metrics={}, samples={"tasks": {"items": task}})


def show(metrics: dict[str, float], sizes: Sequence[int], runs: int, slowdown: float) -> None:
    """Rates in percent."""
    table = Table("sessions a side", title=f"share of {runs} gates, %")
    for case in ("nothing changed", f"{slowdown:g} % slower", "1 point less accurate"):
        table.add_column(f"{case}: regressed", justify="right")
        table.add_column("could not measure", justify="right")
        table.add_column("pass", justify="right")
    for size in sizes:
        rates = [
            f"{100 * metrics[f'{case}/{size}/{outcome}']:.1f}"
            for case in ("nothing", "slower", "less_accurate")
            for outcome in ("regressed", "unmeasured", "passed")
        ]
        table.add_row(str(size), *rates)
    Console(width=160).print(table)
    shares = [
        f"{name.split('/')[2]} {100 * share:.1f}" for name, share in metrics.items() if name.startswith("halves/")
    ]
    print(f"the pool's own halves, {runs} times, %: {', '.join(shares)}")


if __name__ == "__main__":
    script(main)
