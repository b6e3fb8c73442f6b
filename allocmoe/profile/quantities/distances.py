"""LExI's data-free profile (arXiv 2509.02753): how far a module's output moves at top-k."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.profile.quantities.quantity import Quantity, Setting

if TYPE_CHECKING:
    from allocmoe.engines.hf import HFEngine


def distances(engine: HFEngine, draws: int = 8, tokens: int = 256, seed: int = 0) -> np.ndarray:
    """`D_l(k) = mean ||Y_k - Y_K||_F` over `draws` inputs X ~ N(0, 1) of `tokens` rows: [L, K].

    Shared experts cancel in the difference. The last column is zero.
    """
    import torch

    from allocmoe.profile.algorithm1 import block_of, expert_prefixes

    generator = torch.Generator().manual_seed(seed)
    parameter = next(engine.model.parameters())
    width = engine.model.config.hidden_size
    table = np.zeros((engine.spec.layers, engine.spec.top_k))
    with torch.inference_mode(), engine.using(None):
        for _ in range(draws):
            x = torch.randn(tokens, width, generator=generator).to(parameter)
            for layer in range(engine.spec.layers):
                prefixes = expert_prefixes(engine, layer, block_of(engine, layer), x).double()
                gap = prefixes - prefixes[:, -1:]
                table[layer] += gap.square().sum((0, 2)).sqrt().cpu().numpy() / draws
    return table


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    return distances(setting.engine, seed=setting.seed).tolist(), {"seed": setting.seed}


QUANTITY = Quantity(
    "distances",
    "LExI's D_l(k), without data",
    _measure,
    shapes=lambda spec: (spec.layers, spec.top_k),
    least=0.0,
)
