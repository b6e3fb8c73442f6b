"""What is measured on each commit: a suite of models, methods and budgets, into one records file.

Quality is measured in this process, speed in engine starts of their own: each a fresh process with one
interleaved session, because two starts of one engine differ by more than two rounds of one start.
What the file holds already is kept, so an interrupted measurement goes on where it was.

    allocmoe measure --suite small --records records.jsonl
"""

from __future__ import annotations

import gc
import importlib.util
import json
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from tqdm import tqdm

from allocmoe import mini, records
from allocmoe.errors import AllocMoEError
from allocmoe.measure import protocol as speed
from allocmoe.measure.protocol import Protocol
from allocmoe.methods import METHODS
from allocmoe.plan import Plan
from allocmoe.records import Record

VARIABLE = "ALLOCMOE_SUITE"
WINDOW, BATCH = 256, 8  # tokens; windows that share a batch


@dataclass(frozen=True)
class Suite:
    """What to measure, and how much of it.

    Attributes:
        models: for quality; names of embedded models, or checkpoint folders.
        timed: for speed: (engine, model) pairs.
        methods: of METHODS; `original` is always among them.
        shares: budgets as shares of L * K; None: each model's own four, the paper's where it has them.
        text, calibration: held-out text and the profile's (see `evaluate.text.windows`).
        windows, items: of the held-out text; per task, 0 for perplexity alone.
        calibration_windows: what the profile reads.
        tasks: lm-eval's names, None for the embedded ones.
        protocol: of a speed session.
        starts: engine starts, each with one session.
        dtype, device: of the models.
        seed: of everything random.
    """

    models: tuple[str, ...]
    timed: tuple[tuple[str, str], ...]
    methods: tuple[str, ...] = tuple(METHODS)
    shares: tuple[float, ...] | None = (0.5,)
    text: str = "mini-test"
    calibration: str = "mini-train"
    windows: int = 32
    items: int = 50
    calibration_windows: int = 8
    tasks: tuple[str, ...] | None = None
    protocol: Protocol = field(default_factory=Protocol)
    starts: int = 3
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [m for m in self.methods if m not in METHODS]
        engines = [e for e, _ in self.timed if e not in ("transformers", "vllm")]
        if unknown or engines:
            raise AllocMoEError(f"a suite cannot measure {', '.join(unknown + engines)}: see `allocmoe measure --help`")
        if not all(0 < share < 1 for share in self.shares or ()) or self.starts < 0 or not (self.models or self.timed):
            raise AllocMoEError("a suite needs models, shares between 0 and 1, and engine starts that are not negative")


PAPER = ("allenai/OLMoE-1B-7B-0924", "Qwen/Qwen1.5-MoE-A2.7B", "deepseek-ai/DeepSeek-V2-Lite")
SUITES = {
    "small": Suite(
        models=tuple(mini.shipped()),
        timed=(("transformers", "mini-olmoe"), ("vllm", "mini-olmoe")),
        protocol=Protocol(decode=16, warmups=2),
    ),
    "paper": Suite(
        models=PAPER,
        timed=tuple((engine, model) for model in PAPER for engine in ("vllm", "transformers")),
        shares=None,
        text="wikitext2-test",
        calibration="wikitext2-train",
        windows=128,
        items=500,
        calibration_windows=64,
        tasks=("boolq", "sciq", "arc_easy", "arc_challenge", "hellaswag", "piqa", "asdiv", "mathqa"),
        dtype="bfloat16",
        device="cuda",
    ),
}


_STRINGS = {"type": "array", "items": {"type": "string"}}
_TEXT, _COUNT, _FROM_ONE = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}
_FORM = {
    "type": "object",
    "properties": {
        "models": _STRINGS,
        "methods": _STRINGS,
        "tasks": {"anyOf": [_STRINGS, {"type": "null"}]},
        "timed": {"type": "array", "items": {**_STRINGS, "minItems": 2, "maxItems": 2}},
        "shares": {"type": ["array", "null"], "items": {"type": "number"}},
        "text": _TEXT, "calibration": _TEXT, "dtype": _TEXT, "device": _TEXT,
        "windows": _FROM_ONE, "calibration_windows": _FROM_ONE,
        "items": _COUNT, "starts": _COUNT, "seed": _COUNT,
        "protocol": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
}  # fmt: skip


def chosen(asked: str | None = None) -> Suite:
    """The suite that is asked for: a name of SUITES, or a JSON file with the fields of a `Suite` that
    differ from "small". None: what the variable ALLOCMOE_SUITE says, else "small"."""
    name = asked or os.environ.get(VARIABLE) or "small"
    if name in SUITES:
        return SUITES[name]
    try:
        values = json.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AllocMoEError(f"no suite {name!r} ({error}): expected {' or '.join(SUITES)}, or a JSON file") from None
    known = {f.name for f in fields(Suite)}
    if not isinstance(values, dict) or not set(values) <= known:
        raise AllocMoEError(f"the suite {name} has unknown fields: expected some of {', '.join(sorted(known))}")
    for fault in Draft202012Validator(_FORM).iter_errors(values):
        where = ".".join(map(str, fault.absolute_path))
        raise AllocMoEError(f"the suite {name} cannot be understood: {where}: {fault.message[:200]}")
    try:
        if "protocol" in values:
            values["protocol"] = Protocol(**values["protocol"])
        if "timed" in values:
            values["timed"] = [tuple(pair) for pair in values["timed"]]
        changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return replace(SUITES["small"], **changes)
    except TypeError as error:
        raise AllocMoEError(f"the suite {name} cannot be understood: {error}") from None


def run(suite: Suite, path: Path, progress: bool = True) -> list[Record]:
    """Measure what `path` lacks of a suite, at the present commit; all records of the file.

    Raises AllocMoEError if the file holds another commit's records. What else goes wrong is raised as it is,
    after a record (about "failure") that says so, since a history would otherwise not know of a commit at which
    nothing could be measured. What was measured before is in the file, and the same call goes on from there.
    """
    path = Path(path)
    _one_commit(path, records.resume(path))
    try:
        return _run(suite, path, progress)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        records.append(path, Record("failure", "", "", None, None, None, {}, {}, details={"error": said}))
        raise


def _run(suite: Suite, path: Path, progress: bool) -> list[Record]:
    made: dict[str, list[Plan]] = {}
    for model in dict.fromkeys([*suite.models, *(model for _, model in suite.timed)]):
        made[model] = _quality(suite, model, path, progress)
        gc.collect()  # one model at a time
    for number in range(suite.starts):
        for engine, model in suite.timed:
            _speed(suite, engine, model, made[model], number, path, progress)
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


def _quality(suite: Suite, model: str, path: Path, progress: bool) -> list[Plan]:
    """Plans of a model, and their quality if the suite asks for it."""
    from allocmoe.engines.hf import HFEngine
    from allocmoe.evaluate.quality import evaluate
    from allocmoe.evaluate.tasks import TaskSuite
    from allocmoe.evaluate.text import windows

    engine = HFEngine.load(mini.resolve(model), suite.dtype, suite.device)
    known = _profile(suite, engine, path, progress)
    budgets = engine.spec.budgets()
    if suite.shares is not None:
        budgets = [round(share * engine.spec.original_budget) for share in suite.shares]
    plans = speed.all_plans(engine, known, suite.methods, budgets, seed=suite.seed)
    if model in suite.models:
        held_out = windows(engine.tokenizer, suite.text, suite.windows, WINDOW)
        tasks = TaskSuite(engine, list(suite.tasks) if suite.tasks else None) if suite.items else None
        evaluate(
            engine, plans, held_out, path,
            text_batch=BATCH, suite=tasks, items=suite.items, seed=suite.seed, progress=progress,
        )  # fmt: skip
    return plans


def _profile(suite: Suite, engine: Any, path: Path, progress: bool) -> Any:
    """The profile that the present commit makes; kept beside the records for the next, resumed run."""
    from allocmoe.evaluate.text import windows
    from allocmoe.profile.run import as_record, kept

    if not any(METHODS[m].needs_profile for m in suite.methods):
        return None
    state = re.sub(r"\W+", "-", _state(records.environment()))
    beside = path.with_name(f"{path.stem}.profiles") / f"{engine.fingerprint}-{state}.json"
    text = windows(engine.tokenizer, suite.calibration, suite.calibration_windows, WINDOW)
    found = kept(engine, text, BATCH, beside, seed=suite.seed, progress=progress)
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
            sessions.setdefault(record.setup["session"], set()).add(record.plan)
    if sum(wanted <= found for found in sessions.values()) > number:
        return
    if progress:
        tqdm.write(f"start {number + 1} of {suite.starts}: {engine}, {model}", file=sys.stderr)
    documents = [plan.to_dict() for plan in plans]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_follow_parent) as pool:
        try:
            found = pool.submit(start, suite, engine, model, documents, progress).result()
        except BrokenProcessPool:
            raise AllocMoEError(f"the process of {engine} with {model} died before its session ended") from None
    records.append(path, *(Record.from_dict(document) for document in found))


def _follow_parent() -> None:
    """A session does not outlive the command that asked for it, however that ended."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def start(suite: Suite, engine: str, model: str, plans: Sequence[dict], progress: bool) -> list[dict[str, Any]]:
    """Start an engine and run one session in it; records as documents. Runs in a process of its own."""
    live: Any
    folder = mini.resolve(model)
    if engine == "vllm":
        from allocmoe.engines.vllm.engine import VLLMEngine

        live = VLLMEngine.load(folder, suite.dtype)
    else:
        from allocmoe.engines.hf import HFEngine

        live = HFEngine.load(folder, suite.dtype, suite.device)
    found = speed.session(live, [Plan.from_dict(p) for p in plans], suite.protocol, suite.seed, progress)
    if engine == "vllm":
        live.close()
    return [record.to_dict() for record in found]


def installed(suite: Suite) -> Suite:
    """The suite without engines that are not installed here."""
    missing = importlib.util.find_spec("vllm") is None
    return replace(suite, timed=tuple(pair for pair in suite.timed if not (missing and pair[0] == "vllm")))
