"""Algorithm 1 of the paper: the perplexity of the model with one layer at k, all deeper ones at 1.

`naive` is the algorithm as printed: L(K-1)+1 evaluations. `fast` computes the same matrix from one
pass per batch. Layers before i are at K in every evaluation, so their states are kept from one
ordinary pass. Layer i's attention and its K expert outputs are made once; the sum over the first k
of them, for every k, is a running sum. What remains are K-1 branches that differ from layer i
on: they go through the deeper layers, at top-1, as one larger batch. That suffix bounds the gain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from allocmoe import documents
from allocmoe.data.text import Windows
from allocmoe.engines.head import window_nll
from allocmoe.engines.hf import HFEngine
from allocmoe.engines.passes import Rule
from allocmoe.engines.planned import PlannedLayer, sort_candidates
from allocmoe.errors import AllocMoEError
from allocmoe.routing import token_rule


def top_k_rule(engine: HFEngine, k: int) -> PlannedLayer:
    """Plain top-k for one layer of this engine."""
    return PlannedLayer(token_rule("top_k"), {"k": k}, engine.spec.top_k, engine.spec.experts)


def naive(engine: HFEngine, text: Windows, batch: int, progress: bool = True) -> tuple[np.ndarray, int]:
    """S [L, K] in float64 and the number of evaluations, by Algorithm 1 as printed."""
    layers, top_k = engine.spec.layers, engine.spec.top_k
    table = np.zeros((layers, top_k))
    evaluations = 0
    with engine.using(None), tqdm(total=layers * (top_k - 1) + 1, desc="profile (naive)", disable=not progress) as bar:

        def evaluate() -> float:
            nonlocal evaluations
            evaluations += 1
            bar.update()
            summed = sum(float(engine.nll(ids).sum()) for ids in text.batches(batch))
            return math.exp(summed / (len(text.ids) * (text.ids.shape[1] - 1)))

        now = evaluate()
        for i in range(layers - 1, -1, -1):
            table[i, top_k - 1] = now
            for k in range(top_k - 1, 0, -1):
                engine.set_layer(i, top_k_rule(engine, k))
                now = table[i, k - 1] = evaluate()
    return table, evaluations


@torch.inference_mode()
def fast(
    engine: HFEngine, text: Windows, batch: int, partial: Path | None = None, progress: bool = True
) -> tuple[np.ndarray, int]:
    """The same S and number of evaluations, in one streamed pass.

    Args:
        engine: of the model; whatever plan is in force is put aside.
        text, batch: calibration windows and how many go through at a time. Memory follows the
            batch, not the text.
        partial: file for the sums so far. It is written after every layer and read first, so an
            interrupted profile goes on where it was; removed at the end.

    Raises AllocMoEError if this model's layers cannot be walked one by one.
    """
    layers, top_k = engine.spec.layers, engine.spec.top_k
    state = _Partial.load(partial, engine, text, batch)
    batches = text.batches(batch)
    bar = tqdm(total=len(batches) * layers, initial=state.done, desc="profile", unit="layer", disable=not progress)
    with engine.using(None), bar:
        for number, ids in enumerate(batches):
            if state.done >= (number + 1) * layers:
                continue
            walk = Walk(engine, ids.to(engine.model.device))
            if state.done == number * layers:
                state.original += walk.check()
            for layer in range(layers):
                if state.done > number * layers + layer:
                    continue
                state.sums[layer] += walk.branches(layer)
                state.done += 1
                state.save()
                bar.update()
    count = len(text.ids) * (text.ids.shape[1] - 1)
    table = np.empty((layers, top_k))
    table[:, : top_k - 1] = np.exp(state.sums / count)
    table[-1, top_k - 1] = math.exp(state.original / count)
    first = table[1:, 0] if top_k > 1 else table[-1:, 0].repeat(layers - 1)
    table[:-1, top_k - 1] = first  # S[i, K] is the state that S[i+1, 1] left behind
    state.remove()
    return table, layers * (top_k - 1) + 1


class Walk:
    """One batch on its way through the layers of a model, with every layer's input kept.

    The batch holds whole windows, so no layer sees padding.
    """

    def __init__(self, engine: HFEngine, ids: Tensor) -> None:
        self.engine, self.ids = engine, ids
        body = engine.model.base_model
        self.layers, self.norm = list(body.layers), body.norm
        self.head = engine.model.get_output_embeddings()
        self.inputs: list[Tensor] = []
        self.extras: list[dict[str, Any]] = []
        self.blocks = [block_of(engine, layer) for layer in range(engine.spec.layers)]
        inside = {id(m): depth for depth, layer in enumerate(self.layers) for m in layer.modules()}
        self.depth = [inside[id(block)] for block in self.blocks]

        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            self.inputs.append(args[0] if args else kwargs.pop("hidden_states"))
            kwargs.pop("hidden_states", None)
            self.extras.append(kwargs)

        handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        try:
            for layer in range(engine.spec.layers):
                engine.set_layer(layer, None)
            self.last = engine.backbone(ids)
        finally:
            for handle in handles:
                handle.remove()

    def check(self) -> float:
        """Summed NLL of the batch at top-K; refuses a model whose own pass is not this walk's."""
        own = float(window_nll(self.head, self.last, self.ids).sum())
        walked = float(self._finish(self.inputs[-1], len(self.layers) - 1).sum())
        if not math.isclose(own, walked, rel_tol=1e-4):
            raise AllocMoEError("this model's layers cannot be profiled one by one: use `allocmoe profile --naive`")
        return own

    def branches(self, layer: int) -> np.ndarray:
        """Summed NLL [K-1] with MoE layer `layer` at k = 1..K-1, deeper ones at 1, others at K."""
        engine, depth, block = self.engine, self.depth[layer], self.blocks[layer]
        top_k = engine.spec.top_k
        with _silenced(block) as seen:
            residual = self._layer(self.inputs[depth], depth)
        x = seen[0]
        outputs = expert_prefixes(engine, layer, block, x.flatten(0, 1))[:, : top_k - 1]
        shared = self._shared(layer, block, x)
        branches = outputs.transpose(0, 1).reshape(top_k - 1, *x.shape) + (residual + shared)
        with _at_top_1(engine, layer + 1):
            nll = self._finish(branches.flatten(0, 1).contiguous(), depth + 1)
        return nll.view(top_k - 1, -1).sum(1).cpu().numpy()

    def behind(self, layer: int, rule: Rule) -> Tensor:
        """What MoE layer `layer` hands on [B, T, H] under a rule of its own."""
        self.engine.set_layer(layer, rule)
        try:
            return self._layer(self.inputs[self.depth[layer]], self.depth[layer])
        finally:
            self.engine.set_layer(layer, None)

    def losses(self, layer: int, states: Sequence[Tensor]) -> np.ndarray:
        """Summed NLL of each of the states [B, T, H] behind MoE layer `layer`, all deeper ones unchanged."""
        if not states:
            return np.zeros(0)
        nll = self._finish(torch.cat(list(states)), self.depth[layer] + 1)
        return nll.view(len(states), -1).sum(1).cpu().numpy()

    def _shared(self, layer: int, block: nn.Module, x: Tensor) -> Tensor | float:
        """What the block adds beside its routed experts."""
        if not self.engine.spec.shared:
            return 0.0
        self.engine.set_layer(
            layer, lambda w, i, _valid, _logits: (w * 0, torch.full_like(i, self.engine.spec.experts))
        )
        try:
            return block(x)
        finally:
            self.engine.set_layer(layer, None)

    def _layer(self, hidden: Tensor, depth: int) -> Tensor:
        output = self.layers[depth](hidden, **self._extras(depth, len(hidden)))
        return output[0] if isinstance(output, tuple) else output

    def _finish(self, hidden: Tensor, depth: int) -> Tensor:
        """Summed NLL per row from the layer at `depth` to the end."""
        for at in range(depth, len(self.layers)):
            hidden = self._layer(hidden, at)
        rows = self.ids.repeat(len(hidden) // len(self.ids), 1)
        return window_nll(self.head, self.norm(hidden), rows)

    def _extras(self, depth: int, rows: int) -> dict[str, Any]:
        """The layer's other arguments, repeated for a batch of `rows`."""
        own = len(self.ids)

        def fit(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() > 1 and len(value) == own != rows:
                return value.repeat(rows // own, *[1] * (value.dim() - 1))
            return tuple(fit(v) for v in value) if isinstance(value, tuple) else value

        return {name: fit(value) for name, value in self.extras[depth].items()}


def block_of(engine: HFEngine, layer: int) -> Any:
    """The MoE block that owns a layer's router and experts."""
    router = engine.routers[layer]
    return next(m for m in engine.model.modules() if any(child is router for child in m.children()))


def each_output(block: Any, x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """[T, k, H]: what every chosen expert makes of its token, times its weight.

    x: [T, H] input of a MoE block; weights, index: [T, k].
    """
    each = block.experts(x.repeat_interleave(index.shape[1], 0), index.reshape(-1, 1), weights.reshape(-1, 1))
    found: Tensor = each.view(*index.shape, -1)
    return found


def expert_prefixes(engine: HFEngine, layer: int, block: Any, x: Tensor) -> Tensor:
    """[T, K, H]: the weighted sum over the first k experts of every token, for k = 1..K.

    x: [T, H] input of a MoE block. One pass computes each of the T*K expert outputs once.
    """
    _, weights, index = engine.routers[layer](x)
    weights, index = sort_candidates(weights, index)
    return each_output(block, x, weights, index).cumsum(1)


@contextmanager
def _silenced(block: Any) -> Iterator[list[Tensor]]:
    """A block that returns zeros and notes its input, so that its layer returns the residual."""
    seen: list[Tensor] = []

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(hidden_states)
        return torch.zeros_like(hidden_states)

    block.forward = forward
    try:
        yield seen
    finally:
        del block.forward


@contextmanager
def _at_top_1(engine: HFEngine, first: int) -> Iterator[None]:
    """MoE layers from `first` on at top-1. Where weights are not renormalised over K, the router
    itself is asked for one candidate, which spares the search for the other K-1."""
    routers: list[Any] = engine.routers[first:]
    try:
        for layer, router in enumerate(routers, start=first):
            engine.set_layer(layer, top_k_rule(engine, 1))
            if not engine.spec.renormalise:
                router.top_k = 1
        yield
    finally:
        for layer, router in enumerate(routers, start=first):
            engine.set_layer(layer, None)
            router.top_k = engine.spec.top_k


class _Partial:
    """Sums of a profile under way, kept in a file between runs."""

    def __init__(self, path: Path | None, key: str, shape: tuple[int, int]) -> None:
        self.path, self.key = path, key
        self.sums = np.zeros(shape)
        self.original = 0.0
        self.done = 0

    @classmethod
    def load(cls, path: Path | None, engine: HFEngine, text: Windows, batch: int) -> _Partial:
        key = documents.digest([engine.fingerprint, text.describe(), int(text.ids.sum()), batch])
        state = cls(path, key, (engine.spec.layers, engine.spec.top_k - 1))
        if path is not None and path.exists():
            try:
                saved = json.loads(path.read_text("utf-8"))
                if saved["key"] == key:
                    state.sums = np.array(saved["sums"], dtype=np.float64).reshape(state.sums.shape)
                    state.original, state.done = float(saved["original"]), int(saved["done"])
            except (OSError, ValueError, TypeError, KeyError):
                raise AllocMoEError(f"{path}, an unfinished profile, is damaged: delete it and start again") from None
        return state

    def save(self) -> None:
        if self.path is not None:
            values = {"key": self.key, "done": self.done, "original": self.original, "sums": self.sums.tolist()}
            documents.write_atomic(self.path, json.dumps(values))

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
