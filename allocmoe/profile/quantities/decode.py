"""What decode costs and loses per layer under top-k0 + refill, in batches that look like decode.

A pass is B tokens, one position of B windows, routed as if decoded (`HFEngine.as_decode`). One layer at a time is at
top-k0 with refill (K' = K), all others are unchanged. So the losses are the layers' own rises from the model as it is,
which add up to first order. Algorithm 1 instead has all deeper layers at 1: where refill makes plans mild, no plan that
anybody wants is near that, and its D would be that of a model whose hidden states have gone astray. As there, layers
before the changed one are computed once; what is measured is a pass through the rest for each layer and k0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.errors import AllocMoEError
from allocmoe.profile.quantities.quantity import Quantity, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.engines.hf import HFEngine
    from allocmoe.engines.planned import PlannedLayer
    from allocmoe.engines.spent import Spent

TOKENS = 4096
"""Of calibration text: every layer and k0 is a pass over them."""

Point = tuple[float, float, float]
"""Summed NLL, and distinct experts and kept pairs summed over passes."""


def batch_of(setting: Setting) -> int:
    """B: what was asked for, or all windows where there are fewer."""
    if setting.decode_batch < 1:
        raise AllocMoEError(f"a decode batch must be at least 1 sequence, got {setting.decode_batch}")
    return min(setting.decode_batch, len(setting.text.ids))


def decode_text(setting: Setting) -> Tensor:
    """Windows [n * B, T], at most TOKENS tokens in whole batches: long windows are cut off, so that B of them fit."""
    ids, batch = setting.text.ids, batch_of(setting)
    length = min(ids.shape[1], max(2, TOKENS // batch))
    count = min(len(ids) // batch, max(1, TOKENS // (batch * length)))
    return ids[: count * batch, :length]


def refilled_layer(engine: HFEngine, layer: int, k: int, batch: int) -> PlannedLayer:
    """Top-k with refill for one layer of this engine, in passes of at most `batch` tokens."""
    from allocmoe.engines.hf import scoring_of
    from allocmoe.engines.planned import PlannedLayer
    from allocmoe.routing import token_rule

    spec = engine.spec
    numbers = {"k": k, "pairs": spec.top_k, "refill_tokens": batch}
    scoring = scoring_of(engine.routers[layer], spec)
    return PlannedLayer(token_rule("refill"), numbers, spec.top_k, spec.experts, scoring=scoring)


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    import torch
    from tqdm import tqdm

    engine, batch, ids = setting.engine, batch_of(setting), decode_text(setting)
    layers, top_k = engine.spec.layers, engine.spec.top_k
    engine.check_routers()
    sums = np.zeros((3, layers, top_k))
    points = _passes if setting.naive else _suffixes
    total = len(ids) // batch * (layers * (top_k - 1) + 1)
    bar = tqdm(total=total, desc="decode", disable=not setting.progress)
    with torch.inference_mode(), engine.using(None), engine.as_decode(), bar:
        for rows in ids.split(batch):
            for layer, k, point in points(engine, rows.to(engine.model.device)):
                sums[:, layer, k - 1] += point
                bar.update(k < top_k or layer == 0)
    passes = len(ids) // batch * ids.shape[1]
    value = {
        "loss": (sums[0] / (len(ids) * (ids.shape[1] - 1))).tolist(),
        "distinct": (sums[1] / passes).tolist(),
        "pairs": (sums[2] / passes).tolist(),
        "batch": batch,
        "passes": passes,
    }
    return value, {"evaluations": layers * (top_k - 1) + 1, "windows": len(ids), "window": ids.shape[1]}


def _suffixes(engine: HFEngine, ids: Tensor) -> Iterator[tuple[int, int, Point]]:
    """Every (layer, k0) of one batch; only layers from the changed one on are computed anew."""
    from allocmoe.profile.algorithm1 import Walk

    with engine.count() as spent:
        walk = Walk(engine, ids)
        whole = [_counts(spent, layer) for layer in range(engine.spec.layers)]
    original = walk.check()
    for layer, counts in enumerate(whole):
        yield layer, engine.spec.top_k, (original, *counts)
        states, found = [], []
        for k in range(1, engine.spec.top_k):
            with engine.count() as spent:
                states.append(walk.behind(layer, refilled_layer(engine, layer, k, len(ids))))
                found.append(_counts(spent, layer))
        losses = walk.losses(layer, states)
        yield from ((layer, k + 1, (float(losses[k]), *found[k])) for k in range(len(found)))


def _passes(engine: HFEngine, ids: Tensor) -> Iterator[tuple[int, int, Point]]:
    """The same by whole passes, for any model."""
    with engine.count() as spent:
        original = float(engine.nll(ids).sum())
        whole = [_counts(spent, layer) for layer in range(engine.spec.layers)]
    for layer, counts in enumerate(whole):
        yield layer, engine.spec.top_k, (original, *counts)
        for k in range(1, engine.spec.top_k):
            engine.set_layer(layer, refilled_layer(engine, layer, k, len(ids)))
            with engine.count() as spent:
                loss = float(engine.nll(ids).sum())
            yield layer, k, (loss, *_counts(spent, layer))
        engine.set_layer(layer, None)


def _counts(spent: Spent, layer: int) -> tuple[float, float]:
    return float(spent.distinct[layer]), float(spent.activations[layer])


QUANTITY = Quantity(
    "decode",
    "loss, distinct experts and pairs per layer and k0, refilled, in batches as at decode",
    _measure,
    shapes=lambda spec: {
        **dict.fromkeys(("loss", "distinct", "pairs"), (spec.layers, spec.top_k)),
        **dict.fromkeys(("batch", "passes"), ()),
    },
    positive=True,
    current=lambda setting, value: value["batch"] == batch_of(setting),
)
