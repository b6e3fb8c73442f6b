"""Which detector finds a change in a history best: false alarms, misses and location error, simulated.

    python bench/detectors.py --records reports/records/history.jsonl

The noise is that of real sessions (noise.json, see docs/errors.md): a simulated session is a bootstrap of the
rounds of one of them, and its estimate the median of the log-ratios to the original. Prints a
table; the last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from allocmoe import records
from allocmoe.cli import script
from allocmoe.history import steps
from allocmoe.history.steps import ALPHA, Step
from allocmoe.metrics import METRICS
from allocmoe.records import Record

NOISE = Path(__file__).with_name("noise.json")
LENGTHS = (10, 20, 40)
SESSIONS = (1, 2, 4, 8, 0)
"""Sessions per commit; 0 stands for 1 to 8, drawn for each commit."""
SPREAD = (0.02, 0.035)
"""Standard deviation of a session's estimate, drawn for each series."""
NEAR = 3
LEAST = math.log1p(METRICS["decode"].minimum)
LEAST_EXACT = METRICS["perplexity"].minimum
Points = Sequence[np.ndarray]


def asv(points: Points, least: float) -> list[Step]:
    """asv's own: a piecewise constant fit of the commits' means in L1, its penalty chosen from the data."""
    from asv.step_detect import detect_steps

    found = detect_steps([float(p.mean()) for p in points], [float(len(p)) for p in points])
    return [Step(b[0], math.nan) for a, b in pairwise(found) if abs(b[2] - a[2]) >= least]


def e_divisive(points: Points, least: float) -> list[Step]:
    """E-divisive (Matteson and James 2014): the split of the largest energy distance, tested by permutation.

    For n and m values the scaled distance is nm / (n + m) * (2 E|X - Y| - E|X - X'| - E|Y - Y'|).
    """
    return _segment(points, least, _energies, 99)


def e_divisive_of_commits(points: Points, least: float) -> list[Step]:
    """The same on the commits' means: holds if the sessions of a commit have noise in common."""
    return e_divisive([p.mean(keepdims=True) for p in points], least)


def cusum(points: Points, least: float) -> list[Step]:
    """The simple one: binary segmentation by the largest difference of means, sessions permuted."""
    return _segment(points, least, _cusums, 499)


def largest_t(points: Points, least: float) -> list[Step]:
    """allocmoe's: the largest t statistic of the commits' means, of two sides or of a run and the rest."""
    return steps.noisy([float(p.mean()) for p in points], least)


DETECTORS: dict[str, Callable[[Points, float], list[Step]]] = {
    "asv": asv, "E-divisive": e_divisive, "E-divisive of commits": e_divisive_of_commits,
    "permuted CUSUM": cusum, "largest t": largest_t,
}  # fmt: skip


def _segment(
    points: Points, least: float, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], resamples: int
) -> list[Step]:
    """Binary segmentation by `statistic(values, values before each split)`, tested by permuting the values."""
    rng = np.random.default_rng(0)
    found, waiting = [], [(0, len(points))]
    while waiting:
        start, stop = waiting.pop()
        if stop - start < 2:
            continue
        values = np.concatenate(list(points[start:stop]))
        before = np.cumsum([len(p) for p in points[start:stop]])[:-1]
        observed = statistic(values, before)
        at, above = int(observed.argmax()), 0
        for _ in range(resamples):
            above += bool(statistic(rng.permutation(values), before).max() >= observed[at])
            if (1 + above) / (1 + resamples) > ALPHA:
                break
        p, k = (1 + above) / (1 + resamples), before[at]
        if p <= ALPHA and abs(values[k:].mean() - values[:k].mean()) >= least:
            found.append(Step(start + at + 1, p))
            waiting += [(start, start + at + 1), (start + at + 1, stop)]
    return sorted(found)


def _cusums(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    return np.abs((values - values.mean()).cumsum()[before - 1]) / np.sqrt(before * (len(values) - before))


def _energies(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Scaled energy distance at every split, through counts below each gap of the sorted values."""
    order = values.argsort()
    gaps = np.diff(values[order])
    n, m = before, len(values) - before
    low = (order < before[:, None]).cumsum(axis=1)[:, :-1]  # values of the left side below each gap
    high = np.arange(1, len(values)) - low
    left = 2 * (low * (n[:, None] - low)) @ gaps
    right = 2 * (high * (m[:, None] - high)) @ gaps
    cross = (low * (m[:, None] - high) + high * (n[:, None] - low)) @ gaps
    # means over different values; a single one has no distance to itself
    inside = left / np.maximum(n * (n - 1), 1) + right / np.maximum(m * (m - 1), 1)
    return n * m / len(values) * (2 * cross / (n * m) - inside)


class Kind(NamedTuple):
    """What is simulated.

    effect: of the step, relative; 0 for none. width: commits until it is taken back, 0 for never.
    shared: part of the variance that all sessions of a commit have in common.
    """

    name: str
    effect: float = 0.0
    shared: float = 0.0
    width: int = 0


KINDS = (
    Kind("no change"), Kind("no change, half the variance shared within a commit", shared=0.5),
    Kind("3 %", 0.03), Kind("5 %", 0.05), Kind("10 %", 0.10),
    Kind("10 %, taken back 5 commits later", 0.10, width=5),
)  # fmt: skip


class Case(NamedTuple):
    """A simulated series: the samples of its commits, and the first commits of its true steps."""

    points: list[np.ndarray]
    steps: list[int]


def session_logs(path: Path = NOISE) -> list[np.ndarray]:
    """Log-ratios of the rounds of the real sessions, [sessions, rounds] per method and phase."""
    sessions = json.loads(path.read_text())["sessions"]
    return [
        np.array([np.log(np.array(s[method][phase]) / np.array(s["original"][phase])) for s in sessions])
        for method in sorted(set(sessions[0]) - {"original"})
        for phase in ("prefill_s", "decode_s")
    ]


def estimates(logs: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Estimates of simulated sessions of one method and phase, around 0, with a spread of 1."""
    pool = logs[rng.integers(len(logs))]
    drawn = pool[rng.integers(len(pool), size=(1000, 1)), rng.integers(pool.shape[1], size=(1000, pool.shape[1]))]
    values = np.median(drawn, axis=1)
    return rng.choice((values - values.mean()) / values.std(), count)


def cases(logs: Sequence[np.ndarray], length: int, kind: Kind, count: int, rng: np.random.Generator) -> Iterator[Case]:
    """Series of `length` commits, with a step up or down at any of them but the first."""
    for number in range(count):
        wanted = SESSIONS[number % len(SESSIONS)]
        sessions = rng.integers(1, 9, length) if wanted == 0 else np.full(length, wanted)
        own, common = estimates(logs, int(sessions.sum()), rng), estimates(logs, length, rng)
        noise = math.sqrt(1 - kind.shared) * own + math.sqrt(kind.shared) * common.repeat(sessions)
        noise *= rng.uniform(*SPREAD)
        points = np.split(noise, sessions.cumsum()[:-1])
        borders = [int(rng.integers(1, length - kind.width))] if kind.effect else []
        borders += [borders[0] + kind.width] if kind.width else []
        size = rng.choice([-1, 1]) * math.log1p(kind.effect)
        for at in range(borders[0] if borders else length, borders[1] if kind.width else length):
            points[at] = points[at] + size
        yield Case(points, borders)


def exact_cases(length: int, count: int, rng: np.random.Generator) -> Iterator[Case]:
    """Series without noise but a jitter of 1e-6, every other one with a step of 0.5 % before its last one or two."""
    for number in range(count):
        values, at = 4.8 * (1 + rng.uniform(-1e-6, 1e-6, length)), length - int(rng.integers(1, 3))
        values[at:] *= 1 + 0.005 * (number % 2) * rng.choice([-1, 1])
        yield Case(list(values[:, None]), [at] if number % 2 else [])


def score(found: Sequence[Sequence[Step]], made: Sequence[Case]) -> dict[str, float]:
    """Rates: steps found further than NEAR from a true one per series, true ones missed, the commit named
    exactly (of all), and the mean distance in commits of those found."""
    false, missed, exact = 0, 0, 0
    distances: list[int] = []
    for cut, case in zip(found, made, strict=True):
        left = [s.at for s in cut]
        for true in case.steps:
            best = min(left, key=lambda at: abs(at - true), default=None)
            if best is None or abs(best - true) > NEAR:
                missed += 1
                continue
            left.remove(best)
            exact += best == true
            distances.append(abs(best - true))
        false += len(left)
    real = sum(len(c.steps) for c in made)
    rates = {"false_alarms": false / len(made)}
    if real:
        far = float(np.mean(distances)) if distances else math.nan
        rates |= {"missed": missed / real, "exact": exact / real, "distance": far}
    return {k: round(v, 4) for k, v in rates.items() if math.isfinite(v)}


def cell(job: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    """All detectors on the same series of one length and kind; kind -1 are those without noise."""
    length, number, count, seed = job
    rng = np.random.default_rng([seed, length, number + 1])
    if number < 0:
        made = list(exact_cases(length, count, rng))
        tried = {"exact": lambda p, least: steps.exact([float(x[0]) for x in p], least)} | {
            n: (lambda p, least, d=d: d([x / 4.8 for x in p], least)) for n, d in DETECTORS.items()
        }
        least, name = LEAST_EXACT, "no noise, 0.5 % at one of the last two commits"
    else:
        made = list(cases(session_logs(), length, KINDS[number], count, rng))
        tried, least, name = dict(DETECTORS), LEAST, KINDS[number].name
    rows = []
    for detector, find in tried.items():
        found = [find(c.points, least) for c in made]
        row: dict[str, Any] = {"kind": name, "length": length, "detector": detector, **score(found, made)}
        if number >= 0:
            parts = {str(s or "1-8"): score(found[i :: len(SESSIONS)], made[i :: len(SESSIONS)])
                     for i, s in enumerate(SESSIONS)}  # fmt: skip
            key = "missed" if made[0].steps else "false_alarms"
            row[f"{key}_by_sessions"] = {s: part[key] for s, part in parts.items()}
        rows.append(row)
    return rows


def main(
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    count: Annotated[int, typer.Option(help="Series of each length and kind.")] = 1000,
    seed: int = 0,
    jobs: int = 2,
) -> None:
    """Simulate, print the table, append a record."""
    work = [(length, number, count, seed) for number in range(-1, len(KINDS)) for length in reversed(LENGTHS)]
    rows = []
    with ProcessPoolExecutor(jobs) as pool:
        for part in pool.map(cell, work):
            rows += part
            for row in part:
                values = " ".join(f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float))
                print(f"{row['kind']:52} {row['length']:2} commits  {row['detector']:22} {values}", flush=True)
    metrics = {
        f"{row['detector']}/{row['kind']}/{row['length']}/{k}": v
        for row in rows for k, v in row.items() if isinstance(v, float)
    }  # fmt: skip
    setup = {"series": count, "seed": seed, "noise": NOISE.name, "spread": SPREAD, "alpha": ALPHA, "least": LEAST}
    record = Record("history", "simulated", "", None, None, None, setup, metrics, samples={"rows": rows})
    records.append(to, record)
    print(json.dumps({"records": str(to), "rows": rows}))


if __name__ == "__main__":
    script(main)
