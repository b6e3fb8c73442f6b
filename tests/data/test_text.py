"""Text as windows: the same every time, the two sides apart, and one sentence for whatever cannot be read."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from allocmoe.data import text
from allocmoe.data.text import Windows, embedded, windows
from allocmoe.errors import AllocMoEError
from allocmoe.mini import resolve
from allocmoe.mini.corpus import EOS
from allocmoe.mini.items import TASKS, Item, held_out, sample, side


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(resolve("mini-olmoe"))


def refused(tokenizer: Any, path: Path | str, *says: str, count: int = 1, length: int = 16) -> None:
    with pytest.raises(AllocMoEError) as caught:
        windows(tokenizer, str(path), count, length)
    assert "\n" not in str(caught.value)
    for word in says:
        assert word in str(caught.value)


def test_windows_are_the_first_tokens_of_a_file_in_order(tokenizer: Any, tmp_path: Path) -> None:
    content = "Tom had a red ball. He gave it to Anna in the park. " * 20
    path = tmp_path / "story.txt"
    path.write_text(content)
    ids = tokenizer(content, add_special_tokens=False)["input_ids"]
    found = windows(tokenizer, str(path), 5, 12)
    assert found.ids.shape == (5, 12)
    assert found.ids.flatten().tolist() == ids[:60]
    said = found.describe()
    assert {**said, "digest": None} == {"text": "story.txt", "windows": 5, "window": 12, "digest": None}
    path.write_text(path.read_text().upper())
    assert windows(tokenizer, str(path), 5, 12).describe()["digest"] != said["digest"], "the same name, another text"


def test_a_short_text_gives_the_whole_windows_it_has(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("One two three four five six seven eight nine ten.")
    tokens = len(tokenizer(path.read_text(), add_special_tokens=False)["input_ids"])
    found = windows(tokenizer, str(path), 100, 4)
    assert found.ids.shape == (tokens // 4, 4)
    assert found.describe()["windows"] == tokens // 4


def test_a_name_that_is_not_utf_8_can_be_written(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"se\xf1ora.txt")
    path.write_text("One two three four five six seven eight nine ten.")
    name = windows(tokenizer, str(path), 1, 4).describe()["text"]
    assert name == r"se\udcf1ora.txt"
    name.encode("utf-8")


def test_a_compressed_file_reads_like_a_plain_one(tokenizer: Any, tmp_path: Path) -> None:
    content = "The friend of Tom is Anna, a señora. " * 10
    (tmp_path / "a.txt").write_text(content, "utf-8")
    with lzma.open(tmp_path / "a.txt.xz", "wt", encoding="utf-8") as file:
        file.write(content)
    plain, packed = (windows(tokenizer, str(tmp_path / n), 3, 8).ids for n in ("a.txt", "a.txt.xz"))
    assert torch.equal(plain, packed)


def test_batches_are_consecutive_and_complete() -> None:
    ids = torch.arange(70).view(7, 10)
    found = Windows(ids, "x").batches(3)
    assert [len(b) for b in found] == [3, 3, 1]
    assert torch.equal(torch.cat(found), ids)


@pytest.mark.parametrize("name", ["mini-train", "mini-test"])
def test_an_embedded_text_is_the_same_every_time_and_long_enough(tokenizer: Any, name: str) -> None:
    first, again = (windows(tokenizer, name, 40, 64) for _ in range(2))
    assert first.ids.shape == (40, 64)
    assert first.name == name
    assert torch.equal(first.ids, again.ids)
    # a longer cut begins like a shorter one, so results on few and on many windows belong together
    assert torch.equal(windows(tokenizer, name, 10, 64).ids, first.ids[:10])


def test_embedded_text_depends_on_side_and_seed_only() -> None:
    assert embedded("train", 5000) == embedded("train", 5000)
    assert sum(len(document) for _, document in embedded("test", 5000)) >= 5000
    assert embedded("train", 5000) != embedded("test", 5000)
    assert embedded("train", 5000, seed=2) != embedded("train", 5000)


def test_every_token_of_an_embedded_text_knows_its_kind(tokenizer: Any) -> None:
    found = windows(tokenizer, "mini-test", 20, 64)
    assert set(found.kinds) == {"nlu", "reasoning", "math", "statements"}
    assert torch.equal(torch.stack(list(found.kinds.values())).sum(0), torch.ones(20, 64, dtype=torch.long))
    ids, seen = found.ids.flatten().tolist(), []
    for kind, document in embedded("test", 20 * 64 * 8):
        seen += [kind] * len(tokenizer(document + EOS, add_special_tokens=False)["input_ids"])
    for kind, tokens in found.kinds.items():
        assert [k == kind for k in seen[: len(ids)]] == tokens.flatten().tolist()


def test_other_texts_and_tokenizers_have_no_kinds(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Tom had a red ball. " * 20)
    assert windows(tokenizer, str(tmp_path / "story.txt"), 2, 8).kinds == {}
    other = AutoTokenizer.from_pretrained(resolve("mini-olmoe"))
    other.eos_token = "<|pad|>"
    assert windows(other, "mini-test", 2, 8).kinds == {}


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_item_of_an_embedded_text_is_of_its_side(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Item]] = []

    def noting(task: str, wanted: str, seed: int) -> Iterator[Item]:
        for item in sample(task, wanted, seed):
            seen.append((task, item))
            yield item

    monkeypatch.setattr(text, "sample", noting)
    documents = [document for _, document in embedded(split, 200_000)]
    assert {task for task, _ in seen} == set(TASKS)
    assert {item.text for _, item in seen} <= set(documents)
    assert all(side(item.key, TASKS[task].one_in) == split for task, item in seen)


def test_no_held_out_item_is_in_the_training_text() -> None:
    documents = [document for _, document in embedded("train", 400_000)]
    for task in TASKS:
        starts = tuple(item.prompt + choice for item in held_out(task) for choice in item.choices)
        assert not [d for d in documents if d.startswith(starts)]


def test_what_cannot_be_read_is_refused_in_one_sentence(tokenizer: Any, tmp_path: Path) -> None:
    refused(tokenizer, tmp_path / "missing.txt", "missing.txt", "No such file", "mini-train")
    refused(tokenizer, tmp_path, "Is a directory")
    (tmp_path / "latin.txt").write_bytes("señora".encode("latin-1"))
    refused(tokenizer, tmp_path / "latin.txt", "not UTF-8")
    (tmp_path / "empty.txt").write_text("")
    refused(tokenizer, tmp_path / "empty.txt", "0 tokens")
    (tmp_path / "short.txt").write_text("One word.")
    refused(tokenizer, tmp_path / "short.txt", "less than one window of 256", length=256)


def test_a_damaged_archive_is_refused_in_one_sentence(tokenizer: Any, tmp_path: Path) -> None:
    packed = lzma.compress(b"The ball is in the box. " * 200)
    (tmp_path / "cut.xz").write_bytes(packed[: len(packed) // 2])
    refused(tokenizer, tmp_path / "cut.xz", "cut.xz", "damaged")
    (tmp_path / "plain.xz").write_bytes(b"this is no archive")
    refused(tokenizer, tmp_path / "plain.xz", "plain.xz", "damaged")


@pytest.mark.parametrize(("count", "length"), [(0, 16), (-1, 16), (1, 1), (1, 0)])
def test_windows_need_a_size(tokenizer: Any, count: int, length: int) -> None:
    refused(tokenizer, "mini-test", "at least", count=count, length=length)
