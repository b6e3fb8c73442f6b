"""The corpus: every window once a pass, in an order that a seed decides, and no held-out text."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from allocmoe import mini
from allocmoe.errors import AllocMoEError
from bench.smollm2.texts import TEXTS, Corpus, corpus


def test_a_pass_reads_every_window_once() -> None:
    found = Corpus(torch.arange(10)[:, None].int())
    rows = [found.rows(first, 3, seed=1).flatten().tolist() for first in range(0, 30, 3)]
    read = [number for row in rows for number in row]
    for start in (0, 10, 20):
        assert sorted(read[start : start + 10]) == list(range(10))
    assert read[:10] != read[10:20]
    assert found.rows(8, 4, seed=1).flatten().tolist() == read[8:12]
    assert found.rows(0, 10, seed=2).flatten().tolist() != read[:10]


def test_files_are_cut_and_rare_words_put_back(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini.resolve("mini-olmoe"))
    text, common = tmp_path / "text", "the old house was on the hill and the hill was old "
    text.mkdir()
    with lzma.open(text / "wikitext2_unk_train.txt.xz", "wt") as file:
        file.write(common * 30 + "the <unk> was old . " * 30)
    (text / "wikitext2_raw_train_head.txt").write_text(common * 20 + "the Quagga was old . ")
    (text / "wikitext2_raw_test.txt").write_text("never read " * 200)
    found = corpus(tokenizer, text, 16, tmp_path / "corpus.npy")
    words = tokenizer.decode(found.windows.flatten().tolist())
    assert "unk" not in words
    assert "never" not in words
    assert words.count("Quagga") > 30
    assert found.windows.shape[1] == 16
    unique, times = found.windows.unique(dim=0, return_counts=True)
    assert set((times % TEXTS["wikitext2_unk_train.txt.xz"]).tolist()) == {0}
    assert len(unique) > 10
    (text / "wikitext2_raw_train_head.txt").unlink()
    again = corpus(tokenizer, tmp_path, 16, tmp_path / "corpus.npy")  # kept: the folder is not read any more
    assert torch.equal(again.windows, found.windows)


def test_text_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini.resolve("mini-olmoe"))
    with pytest.raises(AllocMoEError, match=r"no training text in .*: expected one or more of wikitext2_unk"):
        corpus(tokenizer, tmp_path, 16, tmp_path / "corpus.npy")
    (tmp_path / "tinystories.txt").write_text("too short")
    with pytest.raises(AllocMoEError, match="shorter than one window of 512 tokens"):
        corpus(tokenizer, tmp_path, 512, tmp_path / "corpus.npy")
    assert not (tmp_path / "corpus.npy").exists()
