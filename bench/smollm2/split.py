"""A dense feed-forward layer cut into shared neurons and experts, with a router that knows which experts matter.

1. A neuron contributes |activation| times the norm of its column of the down projection. Those with the largest mean
   square are shared: every token has them.
2. The others are clustered by the tokens that they contribute to, into experts of equal size.
3. The router learns each expert's share of its token's contributions, flattened by the exponent `EVEN`: weights then
   say which expert matters more, for rules that rank by them, and are even enough to multiply outputs with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.smollm2.block import MaskedBlock, Shape, neurons

EVEN = 0.5
ROUNDS = 10  # of clustering
STEPS = 60  # of L-BFGS for a router
PENALTY = 1e-4  # on a router's squared logits


def split(states: Tensor, layer: Any, shape: Shape, seed: int = 0, even: float = EVEN) -> MaskedBlock:
    """A layer's MoE block, as close to the dense layer as it is without training.

    Args:
        states: [T, H], what the dense layer reads on calibration text.
        layer: with `gate_proj`, `up_proj` and `down_proj`.
        shape: of the split; AllocMoEError where it does not fit the layer.
    """
    gate, up, down = (w.to(states.dtype) for w in projections(layer))
    shape.check(len(gate))
    active = neurons(states, gate, up)
    order = arrange(active.abs() * down.norm(dim=0), shape, seed)
    gate, up, down, active = gate[order], up[order], down[:, order], active[:, order]
    router = fit_router(states, norms(active, down, shape), even)
    block = MaskedBlock(gate, up, down, router, 1.0, shape)
    with torch.no_grad():
        block.scale.fill_(best_scale(block.weights(states), active, down, shape))
    return block


def uncut(layer: Any, shape: Shape) -> MaskedBlock:
    """The layer with its neurons as they stand and a router of zeros: with every expert active, the dense layer."""
    gate, up, down = projections(layer)
    return MaskedBlock(gate, up, down, gate.new_zeros(shape.experts, gate.shape[1]), float(shape.experts), shape)


def projections(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gate and up [I, H] and down [H, I] of a dense layer."""
    gate, up, down = (getattr(layer, name).weight.detach() for name in ("gate_proj", "up_proj", "down_proj"))
    return gate, up, down


def arrange(contributions: Tensor, shape: Shape, seed: int) -> Tensor:
    """Neurons in the order of a block, [I] indices, from contributions [T, I] that are not negative."""
    energy = contributions.square().mean(0)
    ranked = energy.argsort(descending=True, stable=True)
    shared, routed = ranked[: shape.shared].sort().values, ranked[shape.shared :].sort().values
    labels = clusters(contributions[:, routed].T, shape.experts, seed)
    return torch.cat([shared, routed[labels.argsort(stable=True)]])


def clusters(patterns: Tensor, groups: int, seed: int, rounds: int = ROUNDS) -> Tensor:
    """Labels [n] of rows [n, T] in groups of equal size: k-means by cosine, each round's assignment an optimal one."""
    rows = F.normalize(patterns - patterns.mean(1, keepdim=True), dim=1)
    size = len(rows) // groups
    rng = np.random.default_rng(seed)
    centres = rows[torch.from_numpy(rng.choice(len(rows), groups, replace=False))]
    labels = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(rounds):
        near = (rows @ centres.T).double().numpy()
        _, places = linear_sum_assignment(-np.repeat(near, size, axis=1))
        found = torch.from_numpy(places) // size
        if bool((found == labels).all()):
            break
        labels = found
        centres = F.normalize(F.one_hot(labels, groups).to(rows.dtype).T @ rows, dim=1)
    return labels


def norms(active: Tensor, down: Tensor, shape: Shape) -> Tensor:
    """Norms [T, N] of all experts' outputs, from activations [T, I] and down projections [H, I] in a block's order."""
    s, n, w = shape.shared, shape.experts, shape.width
    mine = down[:, s:].view(-1, n, w)
    inner = torch.einsum("hnw,hnv->nwv", mine, mine)  # |D a|^2 = a' (D'D) a
    routed = active[:, s:].view(-1, n, w)
    return (torch.einsum("tnw,nwv->tnv", routed, inner) * routed).sum(-1).clamp(min=0).sqrt()


def fit_router(states: Tensor, norms: Tensor, even: float) -> Tensor:
    """[N, H] whose softmax comes closest, in cross-entropy, to each expert's share of norms [T, N] ** `even`."""
    wanted = norms.clamp(min=1e-12) ** even
    wanted = wanted / wanted.sum(1, keepdim=True)
    router = states.new_zeros(norms.shape[1], states.shape[1]).requires_grad_()
    unit = states.square().mean().sqrt()  # so that steps have one size in every layer
    scaled = states / unit
    optimizer = torch.optim.LBFGS([router], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(scaled, router)
        value = -(wanted * logits.log_softmax(1)).sum(1).mean() + PENALTY * logits.square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    return router.detach() / unit


def best_scale(weights: Tensor, active: Tensor, down: Tensor, shape: Shape) -> float:
    """The factor on weighted outputs that comes closest to the plain sum of all experts', by least squares.

    Args:
        weights: [T, N], 0 of experts not chosen.
        active, down: as of `norms`.
    """
    routed, mine = active[:, shape.shared :], down[:, shape.shared :]
    mixed = (routed * weights.repeat_interleave(shape.width, 1)) @ mine.T
    whole = routed @ mine.T
    return float((mixed * whole).sum() / mixed.square().sum().clamp(min=1e-12))
