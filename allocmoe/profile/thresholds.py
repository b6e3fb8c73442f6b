"""Thresholds of top-P and NAEE that spend k experts per token, in closed form.

Every layer's threshold is a quantile of the scores that reach it, taken in one forward pass in
which all earlier layers already obey theirs. So on the calibration text the budget is met up to
ties, in every layer, and not only for the unchanged model's scores.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from allocmoe.engines.hf import HFEngine, Rule
from allocmoe.engines.rule import LayerRule, sort_candidates
from allocmoe.evaluate.text import Windows
from allocmoe.routing.naee import beta_for
from allocmoe.routing.top_p import threshold_for

SOLVERS = {"top_p": threshold_for, "naee": beta_for}


@torch.inference_mode()
def calibrate(engine: HFEngine, rule: str, k_l: list[float], text: Windows) -> list[float]:
    """One threshold per layer, for `rule` "top_p" or "naee" and mean activations `k_l` [L].

    The whole text goes through as one batch: give some thousand tokens.
    """
    found: list[float] = []

    def solving(k: float) -> Rule:
        def solve(weights: Tensor, index: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
            weights, index = sort_candidates(weights, index)
            found.append(SOLVERS[rule](weights.float(), k))
            spec = engine.spec
            obeyed = LayerRule(rule, k, spec.top_k, spec.experts, threshold=found[-1])
            return obeyed(weights, index, valid)

        return solve

    with engine.using(None):
        for layer, k in enumerate(k_l):
            engine.set_layer(layer, solving(k))
        engine.backbone(text.ids)
    return found


def tables(engine: HFEngine, text: Windows) -> dict[str, np.ndarray]:
    """For each rule, thresholds [K, L] of every whole uniform k = 1..K."""
    layers = engine.spec.layers
    return {
        rule: np.array([calibrate(engine, rule, [k] * layers, text) for k in range(1, engine.spec.top_k + 1)])
        for rule in SOLVERS
    }
