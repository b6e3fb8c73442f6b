"""Kept pairs as rows: how vLLM's CPU kernels, which read whatever id they are given, skip what a plan drops.

Each kept pair becomes a row of its own with one expert, and the rows' results are summed per token: two compiled calls
around the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from allocmoe.engines.vllm.router import real_rows
from allocmoe.routing.kernels.loops import compiled

FEW = 512
"""Rows of a decode step; a prompt's take new memory."""
SCRATCH: dict[tuple[str, torch.dtype, int], Tensor] = {}


def one_pair_a_row(stock: Any, router: Any) -> Any:
    """`experts.apply` for ragged routing: the kernel at top-1 over the kept pairs, summed per token in float32."""

    def apply(**call: Any) -> None:
        ids, rule = call["topk_ids"], router.rule
        if rule is None or (not rule.ragged and real_rows(ids) is None):
            return stock(**call)
        out, weights = call["output"], call["topk_weights"]
        kept, tokens, row_weights, row_ids = pairs(weights.numpy(), ids.numpy())
        if len(tokens) == ids.numel() and not rule.alone:  # it sums in another order: neighbours must not decide that
            return stock(**call)
        if len(tokens) == 0:
            out.zero_()
            return None
        if len(ids) == 1:  # one token's pairs are one row
            row = {"topk_weights": row_weights.reshape(1, -1), "topk_ids": row_ids.reshape(1, -1)}
            return stock(**call | {name: torch.from_numpy(value) for name, value in row.items()})
        hidden = call["hidden_states"]
        parts, states = scratch("out", len(tokens), out), scratch("in", len(tokens), hidden)
        torch.index_select(hidden, 0, torch.from_numpy(tokens), out=states)
        stock(**call | {
            "output": parts,
            "hidden_states": states,
            "topk_weights": torch.from_numpy(row_weights),
            "topk_ids": torch.from_numpy(row_ids),
        })  # fmt: skip
        add_up(parts, kept, out)
        return None

    return apply


def scratch(name: str, rows: int, like: Tensor) -> Tensor:
    """[rows, H] of nobody knows what, contiguous. Few rows lie where the layer before had its own, in the cache."""
    if rows > FEW:
        return like.new_empty(rows, like.shape[1])
    key = (name, like.dtype, like.shape[1])
    if key not in SCRATCH:
        SCRATCH[key] = like.new_empty(FEW, like.shape[1])
    return SCRATCH[key][:rows]


def add_up(parts: Tensor, kept: np.ndarray, out: Tensor) -> None:
    """Sum rows [P, H] into tokens `out` [T, H], of which token t has the next `kept[t]`; in float32."""
    if out.dtype == torch.bfloat16:
        add_bfloat16(parts.view(torch.uint16).numpy(), kept, out.view(torch.uint16).numpy())
    elif out.dtype == torch.float32:
        add_float32(parts.numpy(), kept, out.numpy())
    else:
        begins = torch.from_numpy(np.cumsum(kept) - kept)
        out.copy_(F.embedding_bag(torch.arange(len(parts)), parts, begins, mode="sum"))


@compiled
def pairs(weights: Any, ids: Any) -> Any:
    """Of weights and ids [T, K] with -1 where dropped: how many pairs each token keeps [T], and of the P kept pairs in
    their order the token [P], the weight and the id [P, 1]."""
    tokens, top = ids.shape
    kept, n = np.zeros(tokens, np.int64), 0
    token = np.empty(ids.size, np.int64)
    row_weights, row_ids = np.empty((ids.size, 1), weights.dtype), np.empty((ids.size, 1), ids.dtype)
    for t in range(tokens):
        for j in range(top):
            if ids[t, j] >= 0:
                token[n], row_weights[n, 0], row_ids[n, 0] = t, weights[t, j], ids[t, j]
                kept[t] += 1
                n += 1
    return kept, token[:n], row_weights[:n], row_ids[:n]


@compiled
def add_float32(parts: Any, kept: Any, out: Any) -> None:
    """`add_up` for float32."""
    row = 0
    for t in range(len(kept)):
        out[t] = 0
        for _ in range(kept[t]):
            out[t] += parts[row]
            row += 1


@compiled
def add_bfloat16(parts: Any, kept: Any, out: Any) -> None:
    """`add_up` for bfloat16 in its bits: the upper half of a float32's; rounded to nearest, ties to even."""
    width, row = parts.shape[1], 0
    total, wide = np.empty(width, np.float32), np.empty(width, np.uint32)
    part, bits = wide.view(np.float32), total.view(np.uint32)
    for t in range(len(kept)):
        total[:] = 0
        for _ in range(kept[t]):
            for h in range(width):
                wide[h] = np.uint32(parts[row, h]) << np.uint32(16)
            for h in range(width):
                total[h] += part[h]
            row += 1
        for h in range(width):
            value = bits[h]
            if total[h] == total[h]:
                value += np.uint32(0x7FFF) + ((value >> np.uint32(16)) & np.uint32(1))
            out[t, h] = value >> np.uint32(16)
