"""Text as token windows: what profiling and perplexity read.

A text is a file (plain or .xz), or one of the embedded ones: "mini-train" and "mini-test" are
documents generated from the two sides of the embedded task sets, so they exist everywhere; or a split
of WikiText-2 (raw) from the Hugging Face hub: "wikitext2-train", "wikitext2-test".
"""

from __future__ import annotations

import lzma
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.mini.corpus import EOS, read_text
from allocmoe.mini.items import TASKS, sample, statement

EMBEDDED = {"mini-train": "train", "mini-test": "test"}
HUB = {"wikitext2-train": "train", "wikitext2-test": "test"}


@dataclass(frozen=True)
class Windows:
    """`ids` [n, length] whole windows of a text, and what they are."""

    ids: Tensor
    name: str

    def batches(self, size: int) -> list[Tensor]:
        """Consecutive batches [<= size, length]; always the same ones."""
        return list(self.ids.split(size))

    def describe(self) -> dict[str, Any]:
        """For records: text, windows, their length in tokens, and a digest of the tokens themselves: the
        same name may stand for another text in another commit."""
        shown = documents.digest(self.ids.tolist())
        return {"text": self.name, "windows": len(self.ids), "window": self.ids.shape[1], "digest": shown}


def embedded(side: str, characters: int, seed: int = 1) -> str:
    """At least `characters` of generated documents of one side; the same for the same seed."""
    rng = random.Random(f"text/{side}/{seed}")
    streams = [sample(task, side, seed + 500) for task in TASKS]
    pieces: list[str] = []
    length = 0
    while length < characters:
        turn = rng.randrange(len(streams) + 1)
        pieces.append(statement(rng) if turn == len(streams) else next(streams[turn]).text)
        length += len(pieces[-1])
    return EOS.join(pieces)


def _wikitext(split: str) -> str:
    """A split of WikiText-2 raw, its rows joined by blank lines, as is usual for perplexity."""
    try:
        from datasets import load_dataset

        return "\n\n".join(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)["text"])
    except Exception as error:  # of the hub's and the network's many kinds
        raise AllocMoEError(f"cannot load WikiText-2: {str(error).splitlines()[0][:200]}; give a text file") from None


def windows(tokenizer: Any, text: str, count: int, length: int) -> Windows:
    """The first `count` whole windows of `length` tokens of a text (a path, or an embedded name).

    Raises AllocMoEError if the text cannot be read or is shorter than one window.
    """
    if count < 1 or length < 2:
        raise AllocMoEError(f"need at least 1 window of at least 2 tokens, got {count} of {length}")
    if text in EMBEDDED:
        content, name = embedded(EMBEDDED[text], count * length * 8), text
    elif text in HUB:
        content, name = _wikitext(HUB[text])[: count * length * 12], text
    else:
        try:
            content, name = read_text(Path(text)), Path(text).name
        except (OSError, UnicodeDecodeError, EOFError, lzma.LZMAError) as error:
            damaged = isinstance(error, EOFError | lzma.LZMAError)
            reason = getattr(error, "strerror", None) or ("damaged" if damaged else "not UTF-8 text")
            known = ", ".join([*EMBEDDED, *HUB])
            raise AllocMoEError(f"cannot read the text {text}: {reason}; give a text file, or one of {known}") from None
        content = content[: count * length * 12]
    ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
    found = min(count, len(ids) // length)
    if found < 1:
        raise AllocMoEError(
            f"the text {text} has {len(ids)} tokens, less than one window of {length}: give a longer one"
        )
    return Windows(torch.tensor(ids[: found * length]).view(found, length), name)
