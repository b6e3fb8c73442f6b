"""The recipe from beginning to end; every step that is done already is left as it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allocmoe import records, spec
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine, load_tokenizer
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.perplexity import Perplexity, perplexity
from allocmoe.records import Record
from bench.dense import Plain
from bench.smollm2 import checkpoint, distil, fetch, texts
from bench.smollm2.block import Shape
from bench.smollm2.blocks import Fit, split_all

NAME = "smollm2-135m-moe"
VALID, TEST = "wikitext2_raw_valid.txt", "wikitext2_raw_test.txt"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """What decides the model.

    Attributes:
        shape, fit, recipe: of the split, of the blocks by themselves, and of all together.
        window, read: tokens of a window in training, and of held-out text. Attention is the costlier the longer they
            are, and nothing of it is trained.
        calibration: windows that layers are split and trained by themselves on.
        valid, test: windows of the held-out texts, for the curve and at the end.
        every: minutes between checkpoints, each with a point of the curve.
        dtype: of the products in training; weights are kept in float32.
    """

    shape: Shape = field(default_factory=Shape)
    fit: Fit = field(default_factory=Fit)
    recipe: distil.Recipe = field(default_factory=distil.Recipe)
    window: int = 256
    read: int = 512
    calibration: int = 256
    valid: int = 24
    test: int = 10_000
    every: float = 10.0
    dtype: str = "bfloat16"

    def decides(self) -> dict[str, Any]:
        """What must not change between two runs that are one: all but how long it trains and how it is watched."""
        known = asdict(self)
        return {
            **{name: known[name] for name in ("shape", "fit", "window", "calibration", "dtype")},
            "recipe": {name: v for name, v in known["recipe"].items() if name not in ("minutes", "steps")},
        }


def make(settings: Settings, text: Path, dense: Path, out: Path, to: Path) -> Record:
    """Split, distil, write and measure the model; go on where an earlier run ended.

    Args:
        text: folder with the training texts (`texts.TEXTS`), VALID and TEST.
        dense: folder of the dense parent.
        out: folder for checkpoint, log and state.
        to: records to append to.

    Raises AllocMoEError for texts or a parent that cannot be used, and where `out` holds a run of other settings.
    """
    for name in (VALID, TEST):
        if not (text / name).is_file():
            raise AllocMoEError(f"{text} has no {name}: give a folder with held-out text beside the training text")
    out.mkdir(parents=True, exist_ok=True)
    _same(settings, out / "settings.json")
    tokenizer = load_tokenizer(dense)
    held = windows(tokenizer, str(text / VALID), settings.valid, settings.read).ids
    corpus = texts.corpus(tokenizer, text, settings.window, out / "corpus.npy", settings.recipe.seed)
    model = train(settings, corpus, held, dense, out)
    folder = checkpoint.write(model, tokenizer, out / NAME, DTYPES[settings.dtype])
    return measure(settings, text, dense, folder, len(corpus.windows), to)


def train(settings: Settings, corpus: texts.Corpus, held: Tensor, dense: Path, out: Path) -> Any:
    """The student, trained to the end; states and curve in `out`."""
    parent, copy = (fetch.load(dense, DTYPES[settings.dtype]) for _ in range(2))
    settings.shape.check(parent.config.intermediate_size)
    some = corpus.rows(0, settings.calibration, settings.recipe.seed + 1)
    split, blocks = split_all(parent, some, settings.shape, settings.fit, out / "blocks")
    log, state = out / "log.jsonl", out / "state.pt"
    told = {line["stage"] for line in curve(log)}
    if "dense" not in told:
        distil.note(log, stage="dense", valid=distil.held_out(parent, held))
    for stage, start in (("split", split), ("blocks", blocks)):
        run = distil.Run(parent, copy, start, settings.recipe)
        if stage not in told:
            distil.note(log, stage=stage, valid=distil.held_out(run.student, held), **distil.usage(run, held[:4]))
    if state.exists():
        run.resume(state)
    distil.train(run, corpus, held, state, log, settings.every)
    return run.student


def curve(log: Path) -> list[dict[str, Any]]:
    """The lines of a log so far."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def measure(settings: Settings, text: Path, dense: Path, folder: Path, corpus: int, to: Path) -> Record:
    """Perplexity of the checkpoint and of its parent on held-out text, as a record with the curve of the training."""
    engine = HFEngine.load(folder)
    cut = windows(engine.tokenizer, str(text / TEST), settings.test, settings.read)
    found, parent = perplexity(engine, cut, 8), _parent(dense, cut)
    lines = curve(folder.parent / "log.jsonl")
    last = lines[-1]
    record = Record(
        "training", folder.name, spec.fingerprint(folder), None, None, None,
        {**cut.describe(), "text_batch": 8, **engine.describe(), "settings": settings.decides(),
         "corpus_windows": corpus},
        {"perplexity": found.value, "perplexity/dense": parent.value,
         **{f"valid/{line['stage']}": line["valid"] for line in lines},
         "minutes": last.get("minutes", 0.0), "tokens": last.get("tokens", 0), "steps": last.get("step", 0)},
        samples={"nll": list(found.nll), "nll/dense": list(parent.nll)},
        details={"curve": lines, "parent": spec.fingerprint(dense)},
    )  # fmt: skip
    if record.key not in {known.key for known in records.resume(to)}:
        records.append(to, record)
    return record


def _parent(folder: Path, cut: Windows) -> Perplexity:
    return perplexity(Plain(folder), cut, 8)  # type: ignore[arg-type]  # all that it asks for is there


def _same(settings: Settings, path: Path) -> None:
    wanted = json.loads(json.dumps(settings.decides()))
    if path.exists():
        if (known := json.loads(path.read_text())) != wanted:
            other = ", ".join(name for name in wanted if known.get(name) != wanted[name])
            raise AllocMoEError(f"{path.parent} holds a run with another {other}: choose another folder")
    else:
        path.write_text(json.dumps(wanted, indent=2) + "\n")
