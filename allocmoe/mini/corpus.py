"""What the embedded models are trained on: real text, and the training side of the task sets.

`build` turns text files and generated items into one array of token ids with the start of every
document, cached beside the checkpoint. Files may be plain or `.xz`; documents inside a text file
are separated by `<|endoftext|>`.
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from allocmoe.mini.items import TASKS, sample, statement

PAD, EOS = "<|pad|>", "<|endoftext|>"
STATEMENTS = 4  # for one round of items: as many of every task as its share


@dataclass(frozen=True)
class Corpus:
    """`tokens` [n] uint16, `starts` [d] first position of each document, `answers` [n] bool: which
    tokens are an item's answer."""

    tokens: np.ndarray
    starts: np.ndarray
    answers: np.ndarray


def read_text(path: Path) -> str:
    """The text of a plain or xz-compressed UTF-8 file."""
    if path.suffix == ".xz":
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return file.read()
    return path.read_text(encoding="utf-8")


def documents(paths: list[Path], size: int = 2000) -> Iterator[str]:
    """Pieces of about `size` characters, cut at line ends, of every document of every file."""
    for path in paths:
        for document in read_text(path).split(EOS):
            piece = ""
            for line in document.splitlines(keepends=True):
                piece += line
                if len(piece) >= size:
                    yield piece.strip()
                    piece = ""
            if piece.strip():
                yield piece.strip()


def exercises(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` training documents, as (prompt, answer): items of every task in turn, by its share, and
    statements of the made-up facts, which are all prompt."""
    rng = random.Random(f"statements/{seed}")
    streams = {name: sample(name, "train", seed) for name in TASKS}
    turns = [name for name, task in TASKS.items() for _ in range(task.share)]
    for i in range(count):
        turn = i % (len(turns) + STATEMENTS)
        if turn >= len(turns):
            yield statement(rng), ""
        else:
            item = next(streams[turns[turn]])
            yield item.prompt, item.text[len(item.prompt) :]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer that splits digits, with `<|pad|>` at id 0 and `<|endoftext|>` at 1."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build(tokenizer: Tokenizer, documents: Iterator[tuple[str, str]], what: str) -> Corpus:
    """Encode (prompt, answer) documents, each followed by `<|endoftext|>`."""
    eos = tokenizer.token_to_id(EOS)
    answers: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    starts, at = [], 0
    bar = tqdm(desc=f"encoding {what}", unit="doc", mininterval=5)
    while batch := list(islice(documents, 4096)):
        prompts = tokenizer.encode_batch_fast([prompt for prompt, _ in batch])
        endings = tokenizer.encode_batch_fast([answer for _, answer in batch])
        for prompt, ending in zip(prompts, endings, strict=True):
            tokens = [*prompt.ids, *ending.ids, eos]
            starts.append(at)
            parts.append(np.array(tokens, dtype=np.uint16))
            answers.append(np.arange(len(tokens)) >= (len(prompt.ids) if ending.ids else len(tokens)))
            at += len(tokens)
        bar.update(len(batch))
    bar.close()
    return Corpus(np.concatenate(parts), np.array(starts, dtype=np.int64), np.concatenate(answers))
