"""Text as token windows: what profiling and perplexity read.

A text is a file (plain or .xz), or one of the embedded ones: "mini-train" and "mini-test" are
documents generated from the two sides of the embedded task sets, so they exist everywhere; or a split
of WikiText-2 (raw) from the Hugging Face hub: "wikitext2-train", "wikitext2-test".
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allocmoe import documents
from allocmoe.errors import AllocMoEError, first_line
from allocmoe.mini.corpus import EOS, read_text
from allocmoe.mini.items import TASKS, sample, statement

EMBEDDED = {"mini-train": "train", "mini-test": "test"}
HUB = {"wikitext2-train": "train", "wikitext2-test": "test"}


@dataclass(frozen=True)
class Windows:
    """Whole windows of a text.

    Attributes:
        ids: [n, length].
        name: of the text.
        kinds: of an embedded text, kind of document -> bool [n, length], the tokens of such documents.
    """

    ids: Tensor
    name: str
    kinds: Mapping[str, Tensor] = field(default_factory=dict)

    def batches(self, size: int) -> list[Tensor]:
        """Consecutive batches [<= size, length]; always the same ones."""
        return list(self.ids.split(size))

    def describe(self) -> dict[str, Any]:
        """For records: text, windows, their length in tokens, and a digest of the tokens themselves: the
        same name may stand for another text in another commit."""
        shown = documents.digest(self.ids.tolist())
        return {"text": self.name, "windows": len(self.ids), "window": self.ids.shape[1], "digest": shown}


def embedded(side: str, characters: int, seed: int = 1) -> list[tuple[str, str]]:
    """At least `characters` of generated documents of one side, the same for the same seed: (kind, text) of each, the
    kind being the group of its task, or "statements"."""
    rng = random.Random(f"text/{side}/{seed}")
    streams = [(TASKS[task].group, sample(task, side, seed + 500)) for task in TASKS]
    pieces: list[tuple[str, str]] = []
    length = 0
    while length < characters:
        turn = rng.randrange(len(streams) + 1)
        if turn == len(streams):
            pieces.append(("statements", statement(rng)))
        else:
            kind, items = streams[turn]
            pieces.append((kind, next(items).text))
        length += len(pieces[-1][1])
    return pieces


def _kinds(tokenizer: Any, ids: Sequence[int], kinds: Sequence[str]) -> dict[str, Tensor]:
    """Kind -> bool [tokens], of documents that EOS ends; nothing where the tokenizer has another EOS."""
    if getattr(tokenizer, "eos_token", None) != EOS:
        return {}
    ends = torch.tensor(ids) == tokenizer.eos_token_id
    document = ends.cumsum(0) - ends.long()  # an EOS belongs to the document that it ends
    order = list(dict.fromkeys(kinds))
    found = torch.tensor([order.index(kind) for kind in kinds])[document]
    return {kind: found == number for number, kind in enumerate(order)}


def _wikitext(split: str) -> str:
    """A split of WikiText-2 raw, its rows joined by blank lines, as is usual for perplexity."""
    try:
        from datasets import load_dataset

        return "\n\n".join(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)["text"])
    except Exception as error:  # of the hub's and the network's many kinds
        raise AllocMoEError(f"cannot load WikiText-2: {first_line(error)}; give a text file") from None


def windows(tokenizer: Any, text: str, count: int, length: int) -> Windows:
    """The first `count` whole windows of `length` tokens of a text (a path, or an embedded name).

    Raises AllocMoEError if the text cannot be read or is shorter than one window.
    """
    if count < 1 or length < 2:
        raise AllocMoEError(f"need at least 1 window of at least 2 tokens, got {count} of {length}")
    pieces: list[tuple[str, str]] = []
    if text in EMBEDDED:
        pieces = embedded(EMBEDDED[text], count * length * 8)
        content, name = EOS.join(piece for _, piece in pieces), text
    elif text in HUB:
        content, name = _wikitext(HUB[text])[: count * length * 12], text
    else:
        try:
            content, name = read_text(Path(text)), documents.encodable(Path(text).name)
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
    ids = ids[: found * length]
    kinds = _kinds(tokenizer, ids, [kind for kind, _ in pieces]) if pieces else {}
    shaped = {kind: tokens.view(found, length) for kind, tokens in kinds.items()}
    return Windows(torch.tensor(ids).view(found, length), name, shaped)
