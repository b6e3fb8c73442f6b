"""Expert load under a plan against the unchanged model's, layer by layer (the paper's section 4.4).

Two loads of an expert: how many tokens activate it, and the sum of their combine weights. Three statistics of a layer:

- Spearman's rank correlation of the activations: do hot experts stay hot?
- the change of the normalised entropy H / log N of the activations: does the load become more or less even?
- the Jensen-Shannon divergence, in bits, of the weighted loads as distributions: how much of the load moved?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.analyses.observe import observed
from allocmoe.records import Record

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from allocmoe.data.text import Windows
    from allocmoe.engines.hf import HFEngine
    from allocmoe.plan import Plan

NAME = "load"
METHODS = ("uniform", "alloc-l", "alloc-t")
"""At half of the activations; Alloc-MoE stands at every budget."""
STATISTICS = ("spearman", "entropy_change", "divergence")


def counted(engine: HFEngine, plan: Plan, text: Windows, batch: int) -> tuple[Tensor, Tensor]:
    """Activations [L, N] (whole numbers) and summed combine weights [L, N] (float64) of the experts on a text."""
    import torch

    shape = engine.spec.layers, engine.spec.experts + 1  # the last column takes what was dropped
    tokens = torch.zeros(shape, dtype=torch.long, device=engine.model.device)
    weighted = torch.zeros(shape, dtype=torch.float64, device=engine.model.device)

    def note(layer: int, _logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> None:
        flat = ids.long().flatten()
        tokens[layer].index_add_(0, flat, torch.ones_like(flat))
        weighted[layer].index_add_(0, flat, weights.double().flatten())

    with engine.using(plan), observed(engine, note), torch.inference_mode():
        for ids in text.batches(batch):
            engine.backbone(ids)
    return tokens[:, :-1].cpu(), weighted[:, :-1].cpu()


def statistics(original: Mapping[str, Any], planned: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """The three statistics of every layer, by name of STATISTICS: [L].

    Args:
        original, planned: "activations" and "weights", [L][N] each.

    A rank correlation is None where the load of a layer is the same on all experts.
    """
    from scipy.special import rel_entr
    from scipy.stats import entropy

    before, after = (np.asarray(side["activations"], dtype=np.float64) for side in (original, planned))
    p, q = (_shares(np.asarray(side["weights"], dtype=np.float64)) for side in (original, planned))
    parts = [rel_entr(side, (p + q) / 2).sum(1) for side in (p, q)]
    change = (entropy(after, axis=1) - entropy(before, axis=1)) / math.log(before.shape[1])
    return {
        "spearman": [_spearman(a, b) for a, b in zip(before, after, strict=True)],
        "entropy_change": change.tolist(),
        # rounding may leave less than 0, of which scipy's jensenshannon makes NaN
        "divergence": (np.maximum(sum(parts), 0) / 2 / math.log(2)).tolist(),
    }


def _shares(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(1, keepdims=True)


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def summary(found: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Smallest, largest and mean of each statistic over the layers that have it, flat."""
    metrics: dict[str, float] = {}
    for name, values in found.items():
        known = [v for v in values if v is not None]
        if known:
            metrics |= {f"{name}_least": min(known), f"{name}_most": max(known)}
            metrics[f"{name}_mean"] = math.fsum(known) / len(known)
    return metrics


def _run(setting: Setting) -> list[Record]:
    """The unchanged model, then plans, each compared with it."""
    plans = setting.plans([*METHODS, "alloc-moe"], [setting.half])
    plans += setting.plans(["alloc-moe"], [b for b in setting.budgets if b != setting.half])[1:]
    whole: Record | None = None
    found = []
    for plan in setting.bar(plans, NAME):

        def measure(plan: Plan = plan, whole: Record | None = whole) -> dict[str, Any]:
            tokens, weights = counted(setting.engine, plan, setting.text, setting.batch)
            samples = {
                "activations": tokens.tolist(),
                "weights": [[round(w, 4) for w in row] for row in weights.tolist()],
            }
            return {"samples": samples, "metrics": summary(statistics((whole.samples if whole else samples), samples))}

        record = setting.once(setting.record(NAME, plan), measure)
        whole = whole or record
        found.append(record)
    return found


ANALYSIS = Analysis(NAME, "how the load of experts changes under a plan", "Figures 7 and 8", _run, scored=False)
