"""The first step: every layer's MoE block by itself, on what its dense layer makes of the same states.

No attention, no LM head, and all layers' states come from one pass of the dense model. A layer is a file, written when
it is done, so an interrupted run goes on with the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bench.smollm2.block import MaskedBlock, Shape
from bench.smollm2.split import split

HELD_OUT = 1 / 16  # of the states
SPLIT_ON = 16384  # states that a layer is split by


@dataclass(frozen=True)
class Fit:
    """How a block is trained: Adam steps of so many states, its rate falling from `lr` to 0 along a cosine."""

    steps: int = 400
    rows: int = 1024
    lr: float = 5e-4
    seed: int = 0


@torch.no_grad()
def states(dense: Any, windows: Tensor, batch: int = 8) -> list[Tensor]:
    """What every feed-forward layer of the dense model reads on windows [n, T]: L times [n * T, H]."""
    found: list[list[Tensor]] = [[] for _ in dense.model.layers]
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _module, args, kept=kept: kept.append(args[0].flatten(0, 1)))
        for layer, kept in zip(dense.model.layers, found, strict=True)
    ]
    try:
        for ids in tqdm(windows.split(batch), desc="dense", unit="batch"):
            dense.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(kept) for kept in found]


def error(made: Tensor, wanted: Tensor, level: Tensor) -> Tensor:
    """Mean squared error [] of outputs [T, H], each row's by its size: a few rows are enormous in every model."""
    miss, size = (v.float().square().sum(1) for v in (made - wanted, wanted))
    return (miss / (size + level)).mean()


def fit(block: MaskedBlock, layer: Any, read: Tensor, how: Fit) -> tuple[float, float]:
    """Train a block on states [T, H], the last of them held out; its error on those before and after."""
    kept = max(1, int(len(read) * HELD_OUT))
    train, test = read[:-kept], read[-kept:]
    with torch.no_grad():
        wanted = layer(test)
        level = wanted.float().square().sum(1).median()
        before = float(error(block(test), wanted, level))
    optimizer = torch.optim.AdamW(block.parameters(), lr=how.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rng = np.random.default_rng([how.seed, 1])
    for step in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.lr * 0.5 * (1 + math.cos(math.pi * step / how.steps))
        rows = train[torch.from_numpy(rng.integers(len(train), size=how.rows))]
        with torch.no_grad():
            wanted_rows = layer(rows)
        loss = error(block(rows), wanted_rows, level)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return before, float(error(block(test), wanted, level))


def save(block: MaskedBlock, path: Path, **more: Any) -> None:
    """Written whole or not at all."""
    part = path.with_name(f"part-{path.name}")
    torch.save({"tensors": block.state_dict(), "shape": block.shape.__dict__, **more}, part)
    part.replace(path)


def load(path: Path) -> MaskedBlock:
    """A block that `save` wrote."""
    return restored(torch.load(path, weights_only=True))


def restored(saved: dict[str, Any]) -> MaskedBlock:
    """A block from its saved tensors and shape."""
    tensors = saved["tensors"]
    block = MaskedBlock(
        *(tensors[name] for name in ("gate", "up", "down", "router")), float(tensors["scale"]), Shape(**saved["shape"])
    )
    block.load_state_dict(tensors)
    return block


def split_all(
    dense: Any, windows: Tensor, shape: Shape, how: Fit, folder: Path
) -> tuple[list[MaskedBlock], list[MaskedBlock]]:
    """The blocks of all layers, as split and as trained by themselves; what `folder` holds is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = dense.model.layers
    named = [(folder / f"{number:02d}-split.pt", folder / f"{number:02d}.pt") for number in range(len(layers))]
    missing = [number for number, (_, trained) in enumerate(named) if not trained.exists()]
    read = states(dense, windows) if missing else []
    for number in tqdm(missing, desc="layers", unit="layer"):
        first, trained = named[number]
        block = split(read[number][:SPLIT_ON].float(), layers[number].mlp, shape, how.seed)
        save(block, first)
        before, after = fit(block, layers[number].mlp, read[number], how)
        save(block, trained, before=before, after=after)
        tqdm.write(f"layer {number}: error {before:.4f}, trained {after:.4f}")
    return [load(first) for first, _ in named], [load(trained) for _, trained in named]
