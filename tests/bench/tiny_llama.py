"""A tiny dense Llama with an embedded model's tokenizer, and a folder of texts: what the recipe needs, in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from allocmoe import mini
from allocmoe.data.text import embedded
from bench.smollm2.block import Shape

SHAPE = Shape(experts=4, width=8, top_k=2, shared=32)


def llama(**more: Any) -> Any:
    """Two layers of 64 neurons in float32, with weights large enough to make its layers matter."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
        "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, **more,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings)).eval().requires_grad_(False)


def folder(path: Path, **more: Any) -> Path:
    """The model and its tokenizer as a checkpoint."""
    llama(**more).save_pretrained(path)
    AutoTokenizer.from_pretrained(mini.resolve("mini-olmoe")).save_pretrained(path)
    return path


def texts(path: Path) -> Path:
    """Generated text in the place of the corpus and of the held-out splits."""
    path.mkdir()
    for name, side, size in (
        ("tinystories.txt", "train", 12_000), ("wikitext2_raw_valid.txt", "test", 3000),
        ("wikitext2_raw_test.txt", "test", 4000),
    ):  # fmt: skip
        (path / name).write_text("<|endoftext|>".join(piece for _, piece in embedded(side, size)))
    return path


def ids(rows: int = 3, length: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2048, (rows, length), generator=torch.Generator().manual_seed(seed))
