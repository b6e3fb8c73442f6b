"""Experts that a token keeps against the entropy of its routing, layer by layer (the paper's Figure 12 b).

The entropy is that of the router's scores over all N experts, divided by log N: 0 for a token with one expert alone,
1 for one whose scores are all equal.
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
BINS = 10


def normalised_entropy(logits: Tensor, scoring: Scoring) -> Tensor:
    """[T] float64, within 0..1: of the router's scores [T, N] as a distribution."""
    import torch

    from allocmoe.routing.scores import FUNCTIONS

    scores = FUNCTIONS[scoring.function](logits.double())
    share = scores / scores.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1) / math.log(logits.shape[-1])


def seen(engine: HFEngine, plan: Plan, text: Windows, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised entropies and experts kept of every token of a text, in every layer: [L, tokens] each."""
    import torch

    from allocmoe.engines.hf import scoring_of

    scorings = [scoring_of(router, engine.spec) for router in engine.routers]
    entropies: list[list[Tensor]] = [[] for _ in scorings]
    kept: list[list[Tensor]] = [[] for _ in scorings]

    def note(layer: int, logits: Tensor, _weights: Tensor, ids: Tensor) -> None:
        entropies[layer].append(normalised_entropy(logits, scorings[layer]).cpu())
        kept[layer].append((ids != engine.spec.experts).sum(-1).cpu())

    with engine.using(plan), observed(engine, note), torch.inference_mode():
        for ids in text.batches(batch):
            engine.backbone(ids)
    joined = [torch.stack([torch.cat(parts) for parts in side]).numpy() for side in (entropies, kept)]
    return joined[0], joined[1]


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


def _run(setting: Setting) -> list[Record]:
    found = []
    for plan in setting.plans(METHODS, [setting.half])[1:]:

        def measure(plan: Plan = plan) -> dict[str, Any]:
            entropies, kept = seen(setting.engine, plan, setting.text, setting.batch)
            related = correlations(entropies, kept)
            known = [v for v in related["pearson"] if v is not None]
            ranked = [v for v in related["spearman"] if v is not None]
            metrics = {"tokens": float(kept.shape[1]), "layers_that_vary": float(len(known))}
            if known:
                metrics |= {"pearson_least": min(known), "pearson_mean": math.fsum(known) / len(known)}
                metrics |= {"spearman_least": min(ranked), "spearman_mean": math.fsum(ranked) / len(ranked)}
            samples = {**related, **binned(entropies, kept, setting.engine.spec.top_k)}
            samples["kept"] = kept.mean(1).round(6).tolist()
            return {"metrics": metrics, "samples": samples}

        found.append(setting.once(setting.record(NAME, plan), measure))
    return found


ANALYSIS = Analysis(NAME, "experts that a token keeps against its routing entropy", "Figure 12", _run, scored=False)
