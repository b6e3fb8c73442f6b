"""The dense parent on data sets, beside lm-eval's own way to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama
import torch
from lm_eval.models.huggingface import HFLM

from allocmoe import records
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.suite import TaskSuite
from bench.smollm2 import fetch
from bench.smollm2.parent import Dense, main

pytestmark = pytest.mark.whole
ROOT = Path(__file__).parents[2]
TASKS = ["mini_story", "mini_agree"]


def test_its_answers_are_those_of_lm_eval_s_own_model(tmp_path: Path) -> None:
    folder = tiny_llama.folder(tmp_path / "dense")
    main(folder, TASKS, items=40, dtype="float32", to=tmp_path / "r.jsonl")
    (record,) = records.load(tmp_path / "r.jsonl")
    model = fetch.load(folder, torch.float32)
    suite = TaskSuite(Dense(model, None), TASKS, lm=HFLM(pretrained=model, tokenizer=str(folder), batch_size=8))
    assert record.samples["tasks"] == suite.run(40)
    right = {t: sum(found["correct"]) / 40 for t, found in record.samples["tasks"].items()}
    assert {t: record.metrics[f"acc/{t}"] for t in TASKS} == pytest.approx(right)
    assert 0 < sum(right.values()) < 2
    assert record.details["architecture"] == "LlamaForCausalLM"


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(AllocMoEError, match="unknown dtype float16: expected one of bfloat16, float32"):
        main(tmp_path, TASKS, dtype="float16", to=tmp_path / "r.jsonl")
    command = [sys.executable, "-m", "bench.smollm2.parent", str(tmp_path / "none"), "--task", "mini_story"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot load the model in {tmp_path / 'none'}")
    assert "Traceback" not in done.stderr
