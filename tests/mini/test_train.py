"""Training, before its first step: what is asked is looked at first, and an interruption leaves nothing half made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from allocmoe.mini import train
from allocmoe.mini.train import Recipe, main, prepare

RECIPE = Recipe("mini-olmoe", 1.0, 0, exercises=50)


def test_a_model_that_nobody_knows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no model 'mini-gpt': expected one of mini-olmoe"):
        main(tmp_path, tmp_path / "out", 1.0, "mini-gpt")
    assert os.listdir(tmp_path) == []


def test_an_interrupted_corpus_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file has its name only when it is whole."""
    (tmp_path / "tinystories.txt").write_text("Tom had a red ball.<|endoftext|>Anna ran home.<|endoftext|>" * 60)
    monkeypatch.setattr(train, "exercises", lambda count, seed: ((f"{n} + 1 =", f" {n + 1}") for n in range(50)))

    def interrupt(file: Path, **_: Any) -> None:
        Path(file).write_bytes(b"PK half of an archive")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, tmp_path, RECIPE)
    _, (text, _), _ = prepare(tmp_path, tmp_path, RECIPE)
    assert len(text.starts) > 1
    assert sorted(os.listdir(tmp_path)) == ["corpus.npz", "tinystories.txt", "tokenizer.json"]
    _, (again, _), _ = prepare(tmp_path, tmp_path, RECIPE)
    assert again.tokens.tolist() == text.tokens.tolist()
