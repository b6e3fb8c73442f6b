"""Soft counts of SEER-MoE (arXiv 2404.05089): the sum of an expert's routing scores over the text. [L][N]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.profile.quantities.quantity import Quantity, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.engines.passes import Rule


def soft_counts(setting: Setting) -> np.ndarray:
    """Scores over all N experts, summed over every token of the text: float64 [L, N].

    Raises AllocMoEError for a family whose routers do not give their logits.
    """
    import torch
    from tqdm import tqdm

    engine, spec = setting.engine, setting.engine.spec
    engine.check_routers()
    found = torch.zeros(spec.layers, spec.experts, dtype=torch.float64)

    def adding(layer: int) -> Rule:
        def rule(weights: Tensor, index: Tensor, _valid: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor]:
            scores = logits.float().sigmoid() if spec.scoring == "sigmoid" else logits.float().softmax(-1)
            found[layer] += scores.sum(0, dtype=torch.float64).cpu()
            return weights, index

        return rule

    batches = tqdm(setting.text.batches(setting.batch), desc="soft counts", disable=not setting.progress)
    with torch.inference_mode(), engine.using(None):
        for layer in range(spec.layers):
            engine.set_layer(layer, adding(layer))
        for ids in batches:
            engine.backbone(ids)
    return found.numpy()


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    return soft_counts(setting).tolist(), {"windows": len(setting.text.ids)}


QUANTITY = Quantity(
    "soft_counts",
    "summed routing scores per expert",
    _measure,
    shapes=lambda spec: (spec.layers, spec.experts),
    least=0.0,
)
