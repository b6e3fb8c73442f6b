"""A trained model's routing, planted in a random-weight model with the same L, N and K.

Random weights route almost evenly, so more experts are touched in a step than real text touches, and
thresholds that were calibrated on real scores keep another number of experts. So mean and covariance of
every layer's router logits over real text are taken off the trained model, and the random model's
routers are made to give logits with these moments on random tokens.

What this gives, on mini-olmoe, mini-qwen and mini-deepseek: mean top scores and the spread of the load come
out within some percent, distinct experts per decode step of eight tokens at 40.7, 24.6 and 33.1 for real
text's 40.6, 24.6 and 33.1 (random weights: 42.1, 25.2, 34.0). What it does not give: logits here are normally
distributed, and a trained router's ratios of a token's scores to its first are not. So rules that compare
scores with a threshold of the embedded model keep fewer experts here: at a budget of 64, Dynamic-MoE 61 for
64 and NAEE 50 for 65, which a record's own count says. Neither is planted how the choices of one layer depend
on another's, or on the token before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError

DRAWN = (16, 128)  # windows and tokens of random input that routers are fitted on


@dataclass(frozen=True)
class Moments:
    """Of router logits, each token's mean over experts taken off (a softmax does not see it): `mean` [L, N]
    and `covariance` [L, N, N] over tokens, float64."""

    mean: Tensor
    covariance: Tensor


@contextmanager
def _watched(engine: HFEngine, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `see(layer, hidden states [T, H])` before every router of every forward pass inside."""

    def hook(layer: int) -> Any:
        return lambda router, args: see(layer, args[0].reshape(-1, router.weight.shape[-1]))

    handles = [router.register_forward_pre_hook(hook(layer)) for layer, router in enumerate(engine.routers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def moments(engine: HFEngine, ids: Tensor, batch: int = 8) -> Moments:
    """Moments of a model's router logits over the tokens of windows [n, T]."""
    logits: list[list[Tensor]] = [[] for _ in engine.routers]

    def see(layer: int, states: Tensor) -> None:
        weight: Any = engine.routers[layer].weight
        found = states.double() @ weight.double().T
        logits[layer].append(found - found.mean(-1, keepdim=True))

    with _watched(engine, see):
        for part in ids.split(batch):
            engine.backbone(part)
    whole = [torch.cat(parts) for parts in logits]
    return Moments(torch.stack([x.mean(0) for x in whole]), torch.stack([torch.cov(x.T) for x in whole]))


@torch.inference_mode()
def plant(engine: HFEngine, wanted: Moments, seed: int = 0) -> None:
    """Give a random-weight model's routers the wanted moments, in place.

    A direction that all tokens share carries the mean logits: one vector is added to all embeddings, which
    are made as large as a layer's input is, so that routing follows the token as it does in a trained model.
    Then one pass over random tokens sets the routers in the order of their depth, each from the input that
    the layers before it gave. The head is blind to the shared direction: it would answer all with one token.

    Raises AllocMoEError for a model with another number of layers or experts.
    """
    shape = (engine.spec.layers, engine.spec.experts)
    if tuple(wanted.mean.shape) != shape:
        raise AllocMoEError(f"moments of {tuple(wanted.mean.shape)} layers and experts do not fit a model of {shape}")
    generator = torch.Generator().manual_seed(seed)
    table = engine.model.get_input_embeddings().weight
    table.copy_(torch.randn(table.shape, generator=generator) + torch.randn(table.shape[1], generator=generator))

    def see(layer: int, states: Tensor) -> None:
        weight: Any = engine.routers[layer].weight
        weight.copy_(_router(states.double().cpu(), wanted.mean[layer], wanted.covariance[layer], generator))

    ids = torch.randint(engine.vocabulary, DRAWN, generator=generator)
    with _watched(engine, see):
        last = engine.backbone(ids).double().flatten(0, 1).mean(0)
    head = engine.model.get_output_embeddings().weight
    shared = (last / last.norm()).to(head.dtype)
    head.sub_(torch.outer(head @ shared, shared))


def _router(states: Tensor, mean: Tensor, covariance: Tensor, generator: torch.Generator) -> Tensor:
    """Weights W [N, H] for which the logits W x of inputs x [T, H] have a mean [N] and covariance [N, N].

    Random directions P, orthogonal to the inputs' mean c, see what differs between tokens, with
    covariance C: W = covariance^(1/2) C^(-1/2) P + mean c^T / |c|^2.
    """
    centre = states.mean(0)
    unit = centre / centre.norm()
    directions = torch.randn(len(mean), states.shape[1], generator=generator, dtype=states.dtype)
    directions -= torch.outer(directions @ unit, unit)
    seen = torch.cov((states @ directions.T).T)
    return _root(covariance, 0.5) @ _root(seen, -0.5) @ directions + torch.outer(mean, centre / centre.square().sum())


def _root(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric positive matrix [N, N]; directions without variance stay without."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > 1e-12 * values[-1]
    return (vectors * torch.where(kept, values.clamp(min=1e-300) ** power, 0.0)) @ vectors.T
