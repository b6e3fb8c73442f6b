"""Experts that a token keeps against the entropy of its routing, layer by layer (the paper's Figure 12 b).

The paper does not say of which scores its entropy is, so there are two: of the scores of all N experts, and of
those of a token's K candidates alone. Both are divided by the logarithm of their number: 0 for a token with one expert
alone, 1 for one whose scores are all equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.analyses.observe import observed
from allocmoe.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.data.text import Windows
    from allocmoe.engines.hf import HFEngine
    from allocmoe.plan import Plan
    from allocmoe.routing import Scoring

NAME = "entropy"
METHODS = ("alloc-t", "alloc-moe")
KINDS = ("experts", "candidates")
BINS = 10


def normalised_entropies(logits: Tensor, scoring: Scoring, top_k: int) -> Tensor:
    """[2, T] float64, within 0..1: in the order of KINDS, of the router's scores [T, N] as distributions."""
    import torch

    from allocmoe.routing.scores import FUNCTIONS

    scores = FUNCTIONS[scoring.function](logits.double())
    found = []
    for among in (scores, scores.topk(top_k).values):
        share = among / among.sum(-1, keepdim=True)
        found.append(torch.special.entr(share).sum(-1) / math.log(max(2, among.shape[-1])))
    return torch.stack(found)


def seen(engine: HFEngine, plan: Plan, text: Windows, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised entropies [2, L, tokens], in the order of KINDS, and experts kept [L, tokens] on a text."""
    import torch

    from allocmoe.engines.hf import scoring_of

    spec = engine.spec
    scorings = [scoring_of(router, spec) for router in engine.routers]
    entropies: list[list[Tensor]] = [[] for _ in scorings]
    kept: list[list[Tensor]] = [[] for _ in scorings]

    def note(layer: int, logits: Tensor, _weights: Tensor, ids: Tensor) -> None:
        entropies[layer].append(normalised_entropies(logits, scorings[layer], spec.top_k).cpu())
        kept[layer].append((ids != spec.experts).sum(-1).cpu())

    with engine.using(plan), observed(engine, note), torch.inference_mode():
        for ids in text.batches(batch):
            engine.backbone(ids)
    values = torch.stack([torch.cat(parts, dim=1) for parts in entropies], dim=1)
    return values.numpy(), torch.stack([torch.cat(parts) for parts in kept]).numpy()


def correlations(entropies: np.ndarray, kept: np.ndarray) -> dict[str, list[float | None]]:
    """Pearson's and Spearman's correlation over the tokens of each layer: [L]; None where all keep the same number."""
    from scipy.stats import pearsonr, spearmanr

    found: dict[str, list[float | None]] = {"pearson": [], "spearman": []}
    for values, numbers in zip(entropies, kept, strict=True):
        varied = np.ptp(values) > 0 and np.ptp(numbers) > 0
        found["pearson"].append(float(pearsonr(values, numbers).statistic) if varied else None)
        found["spearman"].append(float(spearmanr(values, numbers).statistic) if varied else None)
    return found


def binned(entropies: np.ndarray, kept: np.ndarray, top_k: int) -> dict[str, Any]:
    """Tokens of each layer by tenths of their entropy: what the figure needs of so many tokens.

    Returns:
        "edges": [L][BINS + 1] quantiles of the entropy; "counts": [L][BINS][K + 1], how many tokens of a tenth keep
        0, 1, ... K experts.
    """
    edges, counts = [], []
    for values, numbers in zip(entropies, kept, strict=True):
        cuts = np.quantile(values, np.linspace(0, 1, BINS + 1))
        places = np.searchsorted(cuts[1:-1], values, side="right")
        table = np.zeros((BINS, top_k + 1), dtype=int)
        np.add.at(table, (places, numbers), 1)
        edges.append([round(float(cut), 6) for cut in cuts])
        counts.append(table.tolist())
    return {"edges": edges, "counts": counts}


def mean_kept(counts: Sequence[Sequence[int]]) -> list[float | None]:
    """Mean number of experts that the tokens of each bin keep: of [BINS][K + 1] counts, [BINS]."""
    return [sum(k * n for k, n in enumerate(row)) / sum(row) if sum(row) else None for row in counts]


def _summary(kind: str, related: dict[str, list[float | None]]) -> dict[str, float]:
    metrics = {}
    for name, values in related.items():
        known = [v for v in values if v is not None]
        metrics["layers_that_vary"] = float(len(known))
        if known:
            metrics[f"{kind}_{name}_least"] = min(known)
            metrics[f"{kind}_{name}_mean"] = math.fsum(known) / len(known)
    return metrics


def _run(setting: Setting) -> list[Record]:
    found = []
    for plan in setting.bar(setting.plans(METHODS, [setting.half])[1:], NAME):

        def measure(plan: Plan = plan) -> dict[str, Any]:
            entropies, kept = seen(setting.engine, plan, setting.text, setting.batch)
            metrics, samples = {"tokens": float(kept.shape[1])}, dict[str, Any]()
            for kind, values in zip(KINDS, entropies, strict=True):
                related = correlations(values, kept)
                metrics |= _summary(kind, related)
                samples[kind] = {**related, **binned(values, kept, setting.engine.spec.top_k)}
            return {"metrics": metrics, "samples": {**samples, "kept": kept.mean(1).round(6).tolist()}}

        found.append(setting.once(setting.record(NAME, plan), measure))
    return found


ANALYSIS = Analysis(NAME, "experts that a token keeps against its routing entropy", "Figure 12", _run, scored=False)
