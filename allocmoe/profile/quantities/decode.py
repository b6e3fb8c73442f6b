"""What decode costs and loses per layer under top-k0 + refill, in batches that look like decode.

A pass is B tokens, one position of B windows, routed as if decoded (`HFEngine.as_decode`). One layer at a time is at
top-k0 with refill (K' = K), all others are unchanged. So the losses are the layers' own rises from the model as it is,
which add up to first order. Algorithm 1 instead has all deeper layers at 1: where refill makes plans mild, no plan that
anybody wants is near that, and its D would be that of a model whose hidden states have gone astray. As there, layers
before the changed one are computed once; what is measured is a pass through the rest for each layer and k0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

Option = tuple[int, int]
"""k0 and K'; (K, K) is the model as it is."""
Point = tuple[float, float, float]
"""Summed NLL, and distinct experts and kept pairs summed over passes."""
Sums = dict[tuple[int, Option], Point]
"""Of every layer and option, over a whole text."""


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


def refilled_layer(engine: HFEngine, layer: int, option: Option, batch: int) -> PlannedLayer:
    """Top-k0 with refill up to K' for one layer of this engine, in passes of at most `batch` tokens."""
    from allocmoe.engines.hf import scoring_of
    from allocmoe.engines.planned import PlannedLayer
    from allocmoe.routing import token_rule

    spec, (k, pairs) = engine.spec, option
    numbers = {"k": k, "pairs": pairs, "refill_tokens": batch}
    scoring = scoring_of(engine.routers[layer], spec)
    return PlannedLayer(token_rule("refill"), numbers, spec.top_k, spec.experts, scoring=scoring)


def summed(setting: Setting, options: Sequence[Option], name: str) -> tuple[Sums, dict[str, int]]:
    """Every layer at every option, and (K, K), over the text; and how many windows of how many tokens that is."""
    import torch
    from tqdm import tqdm

    engine, batch, ids = setting.engine, batch_of(setting), decode_text(setting)
    engine.check_routers()
    sums: Sums = {}
    points = _passes if setting.naive else _suffixes
    total = len(ids) // batch * (engine.spec.layers * len(options) + 1)
    bar = tqdm(total=total, desc=name, disable=not setting.progress)
    with torch.inference_mode(), engine.using(None), engine.as_decode(), bar:
        for rows in ids.split(batch):
            for layer, option, point in points(engine, rows.to(engine.model.device), options):
                so_far = sums.get((layer, option), (0.0, 0.0, 0.0))
                sums[layer, option] = tuple(map(sum, zip(so_far, point, strict=True)))  # type: ignore[assignment]
                bar.update(layer == 0 or option[0] < engine.spec.top_k)
    return sums, {"windows": len(ids), "window": ids.shape[1]}


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    layers, top_k = setting.engine.spec.layers, setting.engine.spec.top_k
    sums, text = summed(setting, [(k, top_k) for k in range(1, top_k)], "decode")
    table = np.array([[sums[layer, (k, top_k)] for k in range(1, top_k + 1)] for layer in range(layers)])
    means, numbers = in_means(table, batch_of(setting), text)
    value = {"loss": means[..., 0].tolist(), "distinct": means[..., 1].tolist(), "pairs": means[..., 2].tolist()}
    return {**value, **numbers}, {"evaluations": layers * (top_k - 1) + 1, **text}


def in_means(table: np.ndarray, batch: int, text: Mapping[str, int]) -> tuple[np.ndarray, dict[str, int]]:
    """Points summed over a text [..., 3] as mean NLL of a token, mean distinct experts and mean pairs of a pass; and
    the batch and number of passes, as values carry them."""
    passes = text["windows"] // batch * text["window"]
    tokens = text["windows"] * (text["window"] - 1)
    return table / [tokens, passes, passes], {"batch": batch, "passes": passes}


def _suffixes(engine: HFEngine, ids: Tensor, options: Sequence[Option]) -> Iterator[tuple[int, Option, Point]]:
    """Every layer and option of one batch; only layers from the changed one on are computed anew.

    As many options go through the rest of the model together as there are in `decode`: memory does not grow with them.
    """
    from allocmoe.profile.algorithm1 import Walk

    top_k = engine.spec.top_k
    with engine.count() as spent:
        walk = Walk(engine, ids)
        whole = [_counts(spent, layer) for layer in range(engine.spec.layers)]
    original, together = walk.check(), max(1, top_k - 1)
    for layer, counts in enumerate(whole):
        yield layer, (top_k, top_k), (original, *counts)
        for start in range(0, len(options), together):
            some = options[start : start + together]
            states, found = [], []
            for option in some:
                with engine.count() as spent:
                    states.append(walk.behind(layer, refilled_layer(engine, layer, option, len(ids))))
                    found.append(_counts(spent, layer))
            losses = walk.losses(layer, states)
            yield from ((layer, o, (float(loss), *n)) for o, loss, n in zip(some, losses, found, strict=True))


def _passes(engine: HFEngine, ids: Tensor, options: Sequence[Option]) -> Iterator[tuple[int, Option, Point]]:
    """The same by whole passes, for any model."""
    top_k = engine.spec.top_k
    with engine.count() as spent:
        original = float(engine.nll(ids).sum())
        whole = [_counts(spent, layer) for layer in range(engine.spec.layers)]
    for layer, counts in enumerate(whole):
        yield layer, (top_k, top_k), (original, *counts)
        for option in options:
            engine.set_layer(layer, refilled_layer(engine, layer, option, len(ids)))
            with engine.count() as spent:
                loss = float(engine.nll(ids).sum())
            yield layer, option, (loss, *_counts(spent, layer))
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
    current=lambda setting, value: value["batch"] == batch_of(setting) and not setting.naive,
)
