"""REAP's saliency (arXiv 2510.13999): the mean of w * ||E_e(x)|| over the tokens routed to expert e. [L][N]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.profile.quantities.quantity import Quantity, Setting

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 1024
"""Tokens whose K expert outputs are held at a time."""


def saliency(setting: Setting) -> np.ndarray:
    """w is the model's own combine weight among its K; an expert that no token is routed to has 0: float64 [L, N]."""
    sums, counts = summed(setting, "saliency", weighted=True)
    return sums / np.maximum(counts, 1)


def summed(setting: Setting, name: str, *, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """The norms of all outputs of each expert, or weight times norm, summed; and of how many tokens: float64 [L, N].

    Raises AllocMoEError for a family whose routers do not give weights and ids as others do.
    """
    import torch
    from tqdm import tqdm

    from allocmoe.profile.algorithm1 import block_of, each_output

    engine, spec = setting.engine, setting.engine.spec
    engine.check_routers()
    sums, counts = torch.zeros(2, spec.layers, spec.experts, dtype=torch.float64, device=engine.model.device)
    blocks = [block_of(engine, layer) for layer in range(spec.layers)]

    def adding(layer: int) -> Any:
        def hook(_module: Any, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
            _, weights, index = output
            for x, w, e in zip(args[0].flatten(0, -2).split(ROWS), weights.split(ROWS), index.split(ROWS), strict=True):
                outputs, experts = each_output(blocks[layer], x, torch.ones_like(w), e), e.flatten().to(torch.int64)
                norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float64).flatten()
                sums[layer].index_add_(0, experts, w.flatten().double() * norms if weighted else norms)
                counts[layer] += experts.bincount(minlength=spec.experts)

        return hook

    batches = tqdm(setting.text.batches(setting.batch), desc=name, disable=not setting.progress)
    with torch.inference_mode(), engine.using(None):
        hooks = [router.register_forward_hook(adding(layer)) for layer, router in enumerate(engine.routers)]
        try:
            for ids in batches:
                engine.backbone(ids)
        finally:
            for hook in hooks:
                hook.remove()
    return sums.cpu().numpy(), counts.cpu().numpy()


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    return saliency(setting).tolist(), {"windows": len(setting.text.ids)}


QUANTITY = Quantity(
    "saliency",
    "REAP's mean of weight times output norm per expert",
    _measure,
    shapes=lambda spec: (spec.layers, spec.experts),
    least=0.0,
)
