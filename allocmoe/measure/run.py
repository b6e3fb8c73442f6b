"""Measuring a suite, into one records file.

Quality is measured in this process, speed in engine starts of their own: each a fresh process with one
interleaved session, because two starts of one engine differ by more than two rounds of one start.
What the file holds already is kept, so an interrupted measurement goes on where it was.

    allocmoe measure --suite small --records records.jsonl
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import mini, records
from allocmoe.errors import AllocMoEError, first_line
from allocmoe.measure.starts import apart, timed
from allocmoe.measure.suite import Suite
from allocmoe.measure.wide import WIDE
from allocmoe.methods import needs, sweep
from allocmoe.plan import Plan
from allocmoe.records import Record

WINDOW, BATCH = 256, 8  # tokens; windows that share a batch


def run(
    suite: Suite, path: Path, progress: bool = True, *, workers: int = 1, data_root: Path | None = None
) -> list[Record]:
    """Measure what `path` lacks of a suite, at the present commit; all records of the file.

    Args:
        workers: engines at once for the quality, see `evaluate.workers`.
        data_root: of lm-eval's own tasks.

    Raises AllocMoEError if the file holds another commit's records. What else goes wrong is raised as it is,
    after a record (about "failure") that says so, since a history would otherwise not know of a commit at which
    nothing could be measured. What was measured before is in the file, and the same call goes on from there.
    """
    path = Path(path)
    _one_commit(path, records.resume(path))
    try:
        return _run(suite, path, progress, workers, data_root)
    except Exception as error:
        said = first_line(error, 500, kind=True)
        records.append(path, Record("failure", "", "", None, None, None, {}, {}, details={"error": said}))
        raise


def _run(suite: Suite, path: Path, progress: bool, workers: int, data_root: Path | None) -> list[Record]:
    made: dict[str, list[Plan]] = {}
    for model in dict.fromkeys([*suite.models, *(WIDE.get(model, model) for _, model in suite.timed)]):
        made[model] = _quality(suite, model, path, progress, workers, data_root)
        gc.collect()  # one model at a time
    for number in range(suite.starts):
        for engine, model in suite.timed:
            _speed(suite, engine, model, made[WIDE.get(model, model)], number, path, progress)
    return records.resume(path)


def _one_commit(path: Path, known: Sequence[Record]) -> None:
    """One file, one state of the code: what a gate compares."""
    now = _state(records.environment())
    for record in known:
        if (other := _state(record.environment)) != now:
            raise AllocMoEError(
                f"{path} holds measurements of commit {other}, but this is {now}: give every commit a file of its own"
            )


def _state(environment: Mapping[str, Any]) -> str:
    """The code that a record was made with, in words: commit and changes to it, else the version."""
    commit = environment.get("commit")
    if not commit:
        return f"unknown, of version {environment.get('versions', {}).get('allocmoe')}"
    return commit["hash"][:12] + (f" with changes {str(commit.get('changes'))[:8]}" if commit.get("dirty") else "")


def _quality(suite: Suite, model: str, path: Path, progress: bool, workers: int, data_root: Path | None) -> list[Plan]:
    """Plans of a model, and their quality if the suite asks for it."""
    from allocmoe.data.text import windows
    from allocmoe.engines.hf import HFEngine
    from allocmoe.evaluate.loading import Evaluation
    from allocmoe.evaluate.quality import fill
    from allocmoe.evaluate.workers import Workers

    engine = HFEngine.load(mini.resolve(model), suite.dtype, suite.device)
    known = _profile(suite, engine, path, progress)
    budgets = engine.spec.budgets()
    if suite.shares is not None:
        budgets = [round(share * engine.spec.original_budget) for share in suite.shares]
    plans = sweep(engine, known, suite.methods, budgets, seed=suite.seed)
    if model in suite.models:
        asked = Evaluation(
            model, "transformers", suite.dtype, suite.device, suite.text, suite.windows, WINDOW, BATCH, suite.passes,
            suite.items, suite.tasks, data_root=str(data_root) if data_root else None, partial=True, seed=suite.seed,
        )  # fmt: skip
        if workers > 1:
            del engine  # its memory goes to the workers
            gc.collect()
            with Workers(asked, workers) as several:
                fill(several, plans, path, progress=progress)
        else:
            held_out = windows(engine.tokenizer, suite.text, suite.windows, WINDOW)
            fill(asked.around(engine, held_out), plans, path, progress=progress)
    return plans


def _profile(suite: Suite, engine: Any, path: Path, progress: bool) -> Any:
    """The profile that the present commit makes; kept beside the records for the next, resumed run."""
    from allocmoe.data.text import windows
    from allocmoe.profile.run import as_record, kept

    wanted = needs(suite.methods)
    if not wanted:
        return None
    state = re.sub(r"\W+", "-", _state(records.environment()))
    beside = path.with_name(f"{path.stem}.profiles") / f"{engine.fingerprint}-{state}.json"
    text = windows(engine.tokenizer, suite.calibration, suite.calibration_windows, WINDOW)
    found = kept(engine, text, BATCH, beside, quantities=wanted, seed=suite.seed, progress=progress)
    written = [record.details.get("digest") for record in records.resume(path) if record.about == "profile"]
    if found.digest not in written:
        records.append(path, as_record(engine, found))
    return found


def _speed(
    suite: Suite, engine: str, model: str, plans: Sequence[Plan], number: int, path: Path, progress: bool
) -> None:
    """One engine start with one session, unless the file holds more than `number` of them."""
    wanted = {plan.digest for plan in plans}
    sessions: dict[str, set[str | None]] = {}
    asked = {**asdict(suite.protocol), "engine": engine, "dtype": suite.dtype, "seed": suite.seed}
    for record in records.resume(path):
        if record.about == "speed" and all(record.setup.get(name) == value for name, value in asked.items()):
            source = record.details.get("transplanted")
            if (source is not None) == (model in WIDE):
                sessions.setdefault(record.setup["session"], set()).add(source["plan"] if source else record.plan)
    if sum(wanted <= found for found in sessions.values()) > number:
        return
    if progress:
        tqdm.write(f"start {number + 1} of {suite.starts}: {engine}, {model}", file=sys.stderr)
    documents = [plan.to_dict() for plan in plans]
    found = apart(
        f"{engine} with {model}", timed, engine, model, suite.dtype, suite.device, suite.seed, documents,
        suite.protocol, progress,
    )  # fmt: skip
    records.append(path, *(Record.from_dict(document) for document in found))
