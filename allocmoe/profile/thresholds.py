"""Thresholds of top-P, NAEE and Threshold Alloc-T for a given number of experts per layer.

A pass over the calibration text solves them layer by layer: each layer's threshold is chosen on scores to
which all earlier layers already obey theirs. So on the calibration text the budget is met up to
ties, in every layer, and not only for the unchanged model's scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.engines.passes import Rule
from allocmoe.engines.planned import PlannedLayer, by_contribution, sort_candidates
from allocmoe.routing import TokenRule

Solver = Callable[[Tensor, float], float]
"""Sorted scores [T, K] and the mean number to keep in, a threshold out."""


@torch.inference_mode()
def calibrate(
    engine: HFEngine, rule: TokenRule, solve: Solver, k_l: list[float], text: Windows, norms: Any = None
) -> list[float]:
    """One threshold per layer of a rule with the parameter "threshold", for mean activations `k_l` [L].

    The whole text goes through as one batch: give some thousand tokens. With norms [L][N] of the experts' outputs,
    thresholds are on contributions instead of weights.
    """
    found: list[float] = []
    spec = engine.spec

    def solving(layer: int, k: float) -> Rule:
        own = {**rule.keep_all(spec.top_k, spec.experts), "k": k}
        if norms is not None:
            own["norms"] = torch.tensor(norms[layer], dtype=torch.float32, device=engine.model.device)

        def solved(weights: Tensor, index: Tensor, valid: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor]:
            if norms is None:
                scores = sort_candidates(weights, index)[0].float()
            else:
                scores = by_contribution(weights, index, own["norms"])[2]
            found.append(solve(scores, k))
            own["threshold"] = found[-1]
            obeyed = PlannedLayer(rule, own, spec.top_k, spec.experts)
            return obeyed(weights, index, valid, logits)

        return solved

    with engine.using(None):
        for layer, k in enumerate(k_l):
            engine.set_layer(layer, solving(layer, k))
        engine.backbone(text.ids)
    return found


def table(
    engine: HFEngine,
    rule: TokenRule,
    solve: Solver,
    text: Windows,
    steps: Sequence[float] | None = None,
    norms: Any = None,
) -> np.ndarray:
    """Thresholds [steps, L] under every uniform k of `steps`; None: the whole ones, 1..K. For norms see `calibrate`."""
    layers, wanted = engine.spec.layers, steps or range(1, engine.spec.top_k + 1)
    return np.array([calibrate(engine, rule, solve, [k] * layers, text, norms) for k in wanted])
