"""What the model is distilled on: windows of training text, in an order that a seed and a step decide.

No row of any task and no held-out split of WikiText-2 is among the files. The whole training split of WikiText-2 is at
hand only with its rare words written as <unk>; the words that it lacks are known from its first articles, which are
there in both forms. Each <unk> becomes one of those, so that what stands around it is read as ordinary text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from allocmoe.errors import AllocMoEError
from allocmoe.mini.corpus import EOS, documents, read_text

TEXTS = {
    "wikitext2_unk_train.txt.xz": 2,
    "wikitext2_raw_train_head.txt": 2,
    "gutenberg_children.txt.xz": 1,
    "tinystories.txt": 1,
}
"""File -> how often a pass over the corpus reads it."""
UNKNOWN, RAW = "<unk>", "wikitext2_raw_train_head.txt"
PIECE = 100_000  # characters that are made into tokens at a time


@dataclass(frozen=True)
class Corpus:
    """Windows [n, length] of training text, each as often as its file is read in a pass."""

    windows: Tensor

    def rows(self, first: int, count: int, seed: int) -> Tensor:
        """Windows [count, length] from place `first` of an endless shuffled row: none again before a pass ends."""
        n = len(self.windows)
        wanted = [divmod(place, n) for place in range(first, first + count)]
        orders = {number: _order(n, seed, number) for number, _ in wanted}
        return self.windows[[int(orders[number][place]) for number, place in wanted]].long()


def _order(count: int, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(count)


def corpus(tokenizer: Any, folder: Path, length: int, cache: Path, seed: int = 0) -> Corpus:
    """All of `TEXTS` that a folder holds, cut into windows of `length` tokens and kept in `cache` (.npy).

    Raises AllocMoEError where the folder has none of them, or too little for one window.
    """
    if cache.exists():
        return Corpus(torch.from_numpy(np.load(cache)))
    found = {name: times for name, times in TEXTS.items() if (folder / name).is_file()}
    if not found:
        raise AllocMoEError(f"no training text in {folder}: expected one or more of {', '.join(TEXTS)}")
    rare = _rare(folder, seed)
    parts: list[np.ndarray] = []
    for name, times in found.items():
        pieces = documents([folder / name], PIECE)
        cut = _windows(tokenizer, (rare.fill(piece) for piece in tqdm(pieces, desc=name, unit="piece")), length)
        parts += [cut] * times
    windows = np.concatenate(parts)
    if not len(windows):
        raise AllocMoEError(f"the text in {folder} is shorter than one window of {length} tokens: give more")
    part = cache.with_name(f"part-{cache.name}")
    np.save(part, windows)
    part.replace(cache)
    return Corpus(torch.from_numpy(windows))


def _windows(tokenizer: Any, pieces: Iterable[str], length: int) -> np.ndarray:
    """Pieces one after another, the end-of-text token between them where there is one, as int32 [n, length]."""
    between = [tokenizer.get_vocab()[EOS]] if EOS in tokenizer.get_vocab() else []
    ids: list[int] = []
    for piece in pieces:
        ids += tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"] + between
    whole = len(ids) // length
    return np.array(ids[: whole * length], np.int32).reshape(whole, length)


@dataclass(frozen=True)
class Rare:
    """Words to put where a text says <unk>; none: the text stays as it is."""

    words: tuple[str, ...]
    rng: random.Random

    def fill(self, text: str) -> str:
        return re.sub(re.escape(UNKNOWN), lambda _: self.rng.choice(self.words), text) if self.words else text


def _rare(folder: Path, seed: int) -> Rare:
    """The words of the raw articles that the whole split, rid of its rare words, does not have."""
    whole = next((folder / name for name in TEXTS if "unk" in name and (folder / name).is_file()), None)
    raw = folder / RAW
    if whole is None or not raw.is_file():
        return Rare((), random.Random(seed))
    common = set(read_text(whole).split())
    return Rare(tuple(w for w in _words(read_text(raw)) if w not in common), random.Random(seed))


def _words(text: str) -> Iterator[str]:
    return (word for word in text.split() if word != UNKNOWN)
