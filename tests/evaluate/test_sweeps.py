"""Sweeps: parts that are kept, an interruption that loses nothing, workers that measure what one engine would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe import records
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.loading import Evaluation
from allocmoe.evaluate.quality import Job, Measurer, fill
from allocmoe.evaluate.tasks import loading, table
from allocmoe.evaluate.workers import Workers
from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.plan import Plan
from allocmoe.records import Record

pytestmark = pytest.mark.whole
torch.set_num_threads(1)
MODEL = "mini-olmoe"
SMALL = Evaluation(MODEL, windows=2, window=32, text_batch=2, items=3, task_batch=4)


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(resolve(MODEL))


@pytest.fixture(scope="module")
def plans(engine: HFEngine) -> list[Plan]:
    half = engine.spec.original_budget // 2
    return [allocate(m, engine.spec, engine.fingerprint, half) for m in ("uniform", "alloc-t", "ascending")]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three embedded data sets that count as others do: each a part of its own."""
    names = tuple(table.EMBEDDED)[:3]
    monkeypatch.setattr(table, "EMBEDDED", {n: spec for n, spec in table.EMBEDDED.items() if n not in names})
    without_stock = partial(loading.manager, stock=False)  # reading lm-eval's own files takes seconds
    monkeypatch.setattr(loading, "manager", lambda specs, folders, stock: without_stock(specs, folders))
    return names


def same(found: Sequence[Record], wanted: Sequence[Record]) -> bool:
    """But for when, where and by which command."""
    plain = [[replace(r, environment={}, command="", created="") for r in rows] for rows in (found, wanted)]
    return plain[0] == plain[1]


class Stopping:
    """A measurer that is interrupted after some jobs; it remembers what it measured."""

    def __init__(self, inner: Measurer, after: int = 10**6) -> None:
        self.inner, self.after, self.measured = inner, after, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record]]:
        for job, record in self.inner.work(jobs):
            if len(self.measured) == self.after:
                raise KeyboardInterrupt
            self.measured.append((job[0].digest, job[1]))
            yield job, record


def test_an_interrupted_sweep_measures_nothing_twice(
    engine: HFEngine, plans: list[Plan], apart: tuple[str, ...], tmp_path: Path
) -> None:
    from allocmoe.data.text import windows

    asked = replace(SMALL, tasks=apart)
    text = windows(engine.tokenizer, asked.text, asked.windows, asked.window)
    whole = fill(asked.around(engine, text), plans, tmp_path / "whole.jsonl", progress=False)
    first, second = (Stopping(asked.around(engine, text), after) for after in (6, 10**6))
    assert first.parts == ["text", *apart]
    with pytest.raises(KeyboardInterrupt):
        fill(first, plans, tmp_path / "r.jsonl", progress=False)
    assert len(records.load(tmp_path / "r.jsonl")) == 1, "the first plan was whole"
    found = fill(second, plans, tmp_path / "r.jsonl", progress=False)
    assert same(found, whole)
    assert len(first.measured) == 6
    assert sorted(first.measured + second.measured) == sorted((p.digest, part) for p in plans for part in first.parts)
    nothing = Stopping(asked.around(engine, text))
    assert same(fill(nothing, plans, tmp_path / "r.jsonl", progress=False), whole)
    assert not nothing.measured


def test_a_data_set_that_joins_leaves_the_others(
    engine: HFEngine, plans: list[Plan], apart: tuple[str, ...], tmp_path: Path
) -> None:
    from allocmoe.data.text import windows

    text = windows(engine.tokenizer, SMALL.text, SMALL.windows, SMALL.window)
    fill(replace(SMALL, tasks=apart[:2]).around(engine, text), plans[:1], tmp_path / "r.jsonl", progress=False)
    more = Stopping(replace(SMALL, tasks=apart).around(engine, text))
    (found,) = fill(more, plans[:1], tmp_path / "r.jsonl", progress=False)
    assert more.measured == [(plans[0].digest, apart[2])]
    assert list(found.samples["tasks"]) == list(apart)
    other = Stopping(replace(SMALL, tasks=apart, items=2).around(engine, text))
    fill(other, plans[:1], tmp_path / "r.jsonl", progress=False)
    assert other.measured == [(plans[0].digest, name) for name in apart], "other items, the same text"


def test_two_workers_are_one(plans: list[Plan], tmp_path: Path) -> None:
    alone = fill(SMALL.start(), plans, tmp_path / "alone.jsonl", progress=False)
    with Workers(SMALL, 2) as several:
        assert several.parts == ["text", "embedded"]
        assert several.fingerprint == plans[0].fingerprint
        assert len(set(several._ray.get([a.process.remote() for a in several._actors]))) == 2
        found = fill(several, plans, tmp_path / "several.jsonl", progress=False)
        several._ray.kill(several._actors[1])
        with pytest.raises(AllocMoEError, match=r"a worker died: .*; what was measured is kept"):
            list(several.work([(plan, "text") for plan in plans]))
    assert same(found, alone)
    assert {r.key for r in records.load(tmp_path / "several.jsonl")} == {r.key for r in alone}
    assert {r.command for r in found} == {alone[0].command}, "the command that a person typed"


def test_a_worker_s_error_is_one_line() -> None:
    with pytest.raises(
        AllocMoEError, match=r"^none of the data sets can be had here|^lm-eval knows no task"
    ) as refused:
        Workers(replace(SMALL, tasks=("no-such-task",)), 2)
    assert "\n" not in str(refused.value)


def test_a_killed_sweep_goes_on(plans: list[Plan], tmp_path: Path) -> None:
    """Killed for good, in a process of its own."""
    for plan in plans:
        plan.save(tmp_path / f"{plan.method}.json")
    command = [
        sys.executable, "-m", "allocmoe.cli", "eval", MODEL, "--items", "3", "--windows", "2", "--window", "32",
        "--records", str(tmp_path / "r.jsonl"), *(f"--plan={tmp_path / plan.method}.json" for plan in plans),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "r.jsonl").exists() or not (tmp_path / "r.jsonl").read_bytes():
            assert running.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    before = (tmp_path / "r.jsonl").read_bytes()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = records.load(tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert [r.method for r in after] == ["original", *(plan.method for plan in plans)]
