"""The table of methods: each is a layer rule and a token rule, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allocmoe import allocation
from allocmoe.allocation.check import whole_budget
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec

if TYPE_CHECKING:
    from allocmoe.profile.sensitivity import Sensitivity


@dataclass(frozen=True)
class Method:
    """One row: which layer rule gives k_l, which token rule keeps experts under it."""

    layer_rule: str
    token_rule: str
    about: str

    @property
    def needs_profile(self) -> bool:
        return self.layer_rule in ("lexi", "alloc_l") or self.token_rule in ("top_p", "naee")


METHODS = {
    "original": Method("full", "top_k", "the model as it is: top-K everywhere"),
    "uniform": Method("uniform", "top_k", "the same budget in every layer"),
    "ascending": Method("ascending", "top_k", "more experts in deeper layers"),
    "descending": Method("descending", "top_k", "more experts in earlier layers"),
    "lexi": Method("lexi", "top_k", "LExI's data-free search (re-implementation)"),
    "alloc-l": Method("alloc_l", "top_k", "Alloc-L: profiled, allocated exactly across layers (+L)"),
    "dynamic-moe": Method("uniform", "top_p", "Dynamic-MoE: top-P, calibrated to the budget"),
    "naee": Method("uniform", "naee", "NAEE: skip weak experts, calibrated to the budget"),
    "alloc-t": Method("mean", "alloc_t", "Alloc-T: strongest scores of the whole batch (+T)"),
    "alloc-moe": Method("alloc_l", "alloc_t", "Alloc-MoE: Alloc-L and Alloc-T together (+L+T)"),
}
DEFAULT_NORMALIZE = "ratio"


def allocate(
    method: str,
    spec: MoESpec,
    fingerprint: str,
    budget: float,
    sensitivity: Sensitivity | None = None,
    *,
    normalize: str = DEFAULT_NORMALIZE,
    k_base: int = 1,
    seed: int = 0,
    reference: str = "original",
) -> Plan:
    """The plan of one method for one model and budget.

    Args:
        method: a key of METHODS.
        spec, fingerprint: of the model.
        budget: B, whole, within L..L*K; `original` only takes L*K.
        sensitivity: profile of the same model, for the methods that need one.
        normalize: of Alloc-L's rows, see `allocation.normalised`.
        k_base: of Alloc-T.
        seed: of LExI's search.
        reference: denominator after dropping, see Plan.

    Raises AllocMoEError for an unknown method, an impossible budget, or a missing or foreign profile.
    """
    if method not in METHODS:
        raise AllocMoEError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
    row, shape = METHODS[method], (spec.layers, spec.top_k)
    budget = whole_budget(budget, *shape)
    if method == "original" and budget != spec.original_budget:
        raise AllocMoEError(f"the method original spends {spec.original_budget}, not {budget}")
    origin: dict[str, object] = {}
    if row.needs_profile:
        if sensitivity is None:
            raise AllocMoEError(f"{method} needs a profile of the model: make one with `allocmoe profile`")
        if (sensitivity.spec, sensitivity.fingerprint) != (spec, fingerprint):
            raise AllocMoEError("the profile was made for another model: make one with `allocmoe profile`")
        origin["profile"] = sensitivity.digest
    layers: list[float]
    if row.layer_rule == "full":
        layers = [spec.top_k] * spec.layers
    elif row.layer_rule == "mean":
        layers = [budget / spec.layers] * spec.layers
    elif row.layer_rule == "alloc_l":
        assert sensitivity is not None
        layers = allocation.alloc_l(np.array(sensitivity.perplexity), budget, normalize, exact=True).tolist()
        origin["normalize"] = normalize
    elif row.layer_rule == "lexi":
        assert sensitivity is not None
        layers = allocation.lexi(np.array(sensitivity.distances), budget, seed).tolist()
        origin["seed"] = seed
    else:
        layers = getattr(allocation, row.layer_rule)(shape, budget).tolist()
    thresholds: list[float] = []
    if row.token_rule in ("top_p", "naee"):
        table = getattr(sensitivity, row.token_rule)
        thresholds = [table[int(k) - 1][layer] for layer, k in enumerate(layers)]
    return Plan(
        method=method,
        budget=budget,
        layers=tuple(layers),
        top_k=spec.top_k,
        token_rule=row.token_rule,
        fingerprint=fingerprint,
        family=spec.family,
        experts=spec.experts,
        k_base=k_base,
        thresholds=tuple(thresholds),
        reference=reference,
        origin=origin,
    )
