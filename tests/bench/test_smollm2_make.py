"""The recipe as a whole on a tiny parent: a model that is measured, runs that go on, and input that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_llama
import torch

from allocmoe import records
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.perplexity import perplexity
from bench.smollm2 import fetch
from bench.smollm2.blocks import Fit
from bench.smollm2.distil import Recipe
from bench.smollm2.make import NAME, TEST, VALID, Settings, make

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(
    shape=tiny_llama.SHAPE, fit=Fit(steps=20, rows=64), recipe=Recipe(minutes=1e9, steps=8, rows=2, lr=1e-3),
    window=32, read=32, calibration=8, valid=4, test=6, every=0, dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Texts and the dense parent."""
    path = tmp_path_factory.mktemp("parts")
    return tiny_llama.texts(path / "text"), tiny_llama.folder(path / "dense")


@pytest.mark.whole
def test_from_a_dense_model_to_a_record(parts: tuple[Path, Path], tmp_path: Path) -> None:
    text, dense = parts
    out, to = tmp_path / "out", tmp_path / "records.jsonl"
    record = make(SETTINGS, text, dense, out, to)
    curve = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in curve] == ["dense", "split", "blocks", *["distil"] * 8]
    assert record.details["curve"] == curve
    assert record.metrics["tokens"] == 8 * 2 * 32
    valid = {line["stage"]: line["valid"] for line in curve}
    assert len({round(v, 3) for v in valid.values()}) == 4
    engine = HFEngine.load(out / NAME)
    found = perplexity(engine, windows(engine.tokenizer, str(text / TEST), 6, 32), 8)
    assert record.metrics["perplexity"] == pytest.approx(found.value, rel=1e-6)
    assert record.fingerprint == engine.fingerprint
    assert record.setup["windows"] == 6
    here = perplexity(engine, windows(engine.tokenizer, str(text / VALID), 4, 32), 8)
    assert valid["distil"] == pytest.approx(here.value, rel=1e-3)

    again = make(SETTINGS, text, dense, out, to)
    assert again.metrics == record.metrics
    assert len(records.load(to)) == 1
    longer = make(replace(SETTINGS, recipe=replace(SETTINGS.recipe, steps=10)), text, dense, out, to)
    assert longer.metrics["steps"] == 10
    assert len(records.load(to)) == 2
    with pytest.raises(AllocMoEError, match="holds a run with another fit, recipe: choose another folder"):
        make(replace(SETTINGS, fit=Fit(steps=5), recipe=Recipe(seed=3)), text, dense, out, to)


def test_input_that_cannot_be_used_is_one_line(parts: tuple[Path, Path], tmp_path: Path) -> None:
    text, dense = parts
    with pytest.raises(AllocMoEError, match=f"has no {VALID}: give a folder with held-out text"):
        make(SETTINGS, tmp_path, dense, tmp_path / "out", tmp_path / "records.jsonl")
    with pytest.raises(AllocMoEError, match="cannot load the tokenizer"):
        make(SETTINGS, text, tmp_path, tmp_path / "out", tmp_path / "records.jsonl")
    with pytest.raises(AllocMoEError, match="has 800 neurons, and the model's layers have 64"):
        make(
            replace(SETTINGS, shape=replace(tiny_llama.SHAPE, shared=768)), text, dense, tmp_path / "o", tmp_path / "r"
        )
    with pytest.raises(AllocMoEError, match="is no GGUF file"):
        fetch.unpack(text / TEST, tmp_path / "unpacked")
    with pytest.raises(AllocMoEError, match=r"cannot read .*nothing: No such file"):
        fetch.unpack(tmp_path / "nothing", tmp_path / "unpacked")
    with pytest.raises(AllocMoEError, match="cannot load the model in"):
        fetch.load(tmp_path)
    with pytest.raises(AllocMoEError, match="holds a llama model: expected a Llama without biases"):
        fetch.load(tiny_llama.folder(tmp_path / "biased", mlp_bias=True))
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.whole
def test_the_command_ends_with_one_line_and_2(parts: tuple[Path, Path], tmp_path: Path) -> None:
    text, dense = parts
    command = [sys.executable, "-m", "bench.smollm2", "--out", tmp_path / "out", "--dense", dense]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for more, said in (
        (["--text", tmp_path], f"error: {tmp_path} has no {VALID}"),
        (["--text", text, "--hard", "2"], "error: expected --dtype"),
    ):
        done = subprocess.run(
            [*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 2
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == 1


def test_the_parent_is_read_in_any_type(parts: tuple[Path, Path]) -> None:
    assert fetch.load(parts[1], torch.bfloat16).dtype is torch.bfloat16
