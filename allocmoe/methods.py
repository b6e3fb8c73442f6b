"""The table of methods: each is a layer rule and a token rule, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from allocmoe.allocation import Request
from allocmoe.allocation.check import UnreachableError, whole_budget
from allocmoe.allocation.method import Method
from allocmoe.allocation.rule import option_of
from allocmoe.errors import AllocMoEError, shown
from allocmoe.plan import Plan
from allocmoe.routing import weighing
from allocmoe.spec import MoESpec

if TYPE_CHECKING:
    from allocmoe.profile.sensitivity import Sensitivity


BATCHED = (
    "Alloc-T shares its budget among the tokens of one forward pass, so its results depend on what else is in the "
    "batch; the batching is part of the measurement."
)
CALIBRATED = (
    "NAEE and Dynamic-MoE hold the budget through thresholds calibrated on other text, so they may spend more or less "
    "than requested."
)
EXPECTED = (
    "The causal methods hold the budget in expectation, through thresholds calibrated on other text, so they may spend "
    "more or less than requested."
)
REFILLED = (
    "Under a rule that refills (OEA, XShare, and those named so) the budget counts the pairs of the base, which decide "
    "the distinct experts: more pairs are kept, and results depend on what else is in the batch."
)
EXPERTS = (
    "Alloc-D's budget counts distinct experts: it may touch as many as uniform top-k of so many activations does in a "
    "batch of the size that it was profiled for, whatever pairs its base then has; results depend on what else is in "
    "the batch."
)
CONTRIBUTIONS = {"scores": "contribution", "rescale": "layer"}
METHODS = {
    "original": Method("full", "top_k", "the model as it is: top-K everywhere"),
    "uniform": Method("uniform", "top_k", "the same budget in every layer"),
    "ascending": Method("ascending", "top_k", "more experts in deeper layers"),
    "descending": Method("descending", "top_k", "more experts in earlier layers"),
    "lexi": Method(
        "lexi", "top_k", "LExI's data-free search (re-implementation)", "LExI",
        caveat="LExI is a re-implementation: no code or hyperparameters were published with it.",
    ),
    "alloc-l": Method("alloc_l", "top_k", "Alloc-L: profiled, allocated exactly across layers (+L)", "Alloc-L"),
    "dynamic-moe": Method(
        "uniform", "top_p", "Dynamic-MoE: top-P, calibrated to the budget", "Dynamic-MoE",
        caveat=CALIBRATED,
    ),
    "naee": Method(
        "uniform", "naee", "NAEE: skip weak experts, calibrated to the budget", "NAEE",
        caveat=CALIBRATED,
    ),
    "alloc-t": Method(
        "mean", "alloc_t", "Alloc-T: strongest scores of the whole batch (+T)", "Alloc-T",
        caveat=BATCHED,
    ),
    "alloc-moe": Method(
        "alloc_l", "alloc_t", "Alloc-MoE: Alloc-L and Alloc-T together (+L+T)", "Alloc-MoE",
        caveat=BATCHED,
    ),
    "alloc-t-causal": Method(
        "mean", "threshold", "Alloc-T by a threshold a layer: no token depends on another", "Alloc-T causal",
        caveat=EXPECTED,
    ),
    "alloc-moe-causal": Method(
        "alloc_l", "threshold", "Alloc-L, and Alloc-T by a threshold a layer: no token depends on another",
        "Alloc-MoE causal",
        caveat=EXPECTED,
    ),
    "alloc-c": Method(
        "one_pass", "alloc_t", "Alloc-C: layers by one pass, experts by what they contribute", "Alloc-C",
        caveat=BATCHED, options=CONTRIBUTIONS,
    ),
    "alloc-c-causal": Method(
        "one_pass", "threshold", "Alloc-C by a threshold a layer: no token depends on another", "Alloc-C causal",
        caveat=EXPECTED, options=CONTRIBUTIONS,
    ),
    "adapmoe": Method(
        "adapmoe", "adapmoe", "AdapMoE: drop tails that cost little by the layer's Fisher term, one threshold",
        "AdapMoE",
        caveat="AdapMoE meets the budget on the calibration text only; it is a re-implementation of its gating alone, "
        "extended to top-K.",
    ),
    "xmoe": Method(
        "xmoe", "xmoe", "XMoE: top-P with one P for all layers, calibrated to the budget", "XMoE",
        caveat="XMoE meets the budget on the calibration text only; it is a re-implementation of its threshold alone.",
    ),
    "yang": Method(
        "yang", "top_k", "a hump over depth, after Yang et al. (re-implementation)", "Yang (hump)",
        caveat="Yang's schedule is a re-implementation; the default hump, twice as many in the middle as at the "
        "ends, is ours.",
    ),
    "seer": Method(
        "seer", "prune", "SEER-MoE's pruning: experts with the largest soft counts stay (re-implementation)",
        "SEER-MoE",
        caveat="SEER-MoE is a re-implementation without training. It keeps K activations per token: its budget is the "
        "share of experts that stay.",
    ),
    "reap": Method(
        "reap", "prune", "REAP's pruning: experts with the largest saliency stay (re-implementation)", "REAP",
        caveat="REAP is a re-implementation. It keeps K activations per token: its budget is the share of experts that "
        "stay.",
    ),
    "oea": Method(
        "uniform", "refill", "OEA: uniform top-k opens experts, tokens use the best of them", "OEA",
        caveat=REFILLED, small_passes=True,
    ),
    "xshare": Method(
        "uniform", "cap", "XShare: the batch may touch so many experts (re-implementation)", "XShare",
        caveat=REFILLED, small_passes=True,
    ),
    "alloc-l-refill": Method(
        "alloc_l", "refill", "Alloc-L opens experts, tokens use the best of them", "Alloc-L + refill",
        caveat=REFILLED, small_passes=True,
    ),
    "alloc-moe-refill": Method(
        "alloc_l", "alloc_t_refill", "Alloc-MoE opens experts, tokens use the best of them", "Alloc-MoE + refill",
        caveat=REFILLED, small_passes=True,
    ),
    "alloc-c-refill": Method(
        "one_pass", "alloc_t_refill", "Alloc-C opens experts, tokens use the best of them", "Alloc-C + refill",
        caveat=REFILLED, small_passes=True, options={"scores": "contribution"},
    ),
    "one-pass-refill": Method(
        "one_pass", "alloc_t_refill", "layers by one pass, Alloc-T opens experts, tokens use the best of them",
        "One pass + refill",
        caveat=REFILLED, small_passes=True,
    ),
    "alloc-d": Method(
        "distinct", "refill", "Alloc-D: distinct experts, profiled under refill, allocated exactly across layers",
        "Alloc-D + refill",
        caveat=EXPERTS, small_passes=True,
    ),
}  # fmt: skip
"""In the order of every table."""


def method(name: str) -> Method:
    """The row of that name; AllocMoEError for a name that none has."""
    if name not in METHODS:
        raise AllocMoEError(f"unknown method {shown(name)}: expected one of {', '.join(METHODS)}")
    return METHODS[name]


def for_windows() -> list[str]:
    """The methods that evaluation over whole windows tells from each other."""
    return [name for name, row in METHODS.items() if not row.small_passes]


def label(name: str) -> str:
    """How a method is called in figures and prose; an unknown one, of a record say, by its name."""
    return (METHODS[name].label if name in METHODS else "") or name


def needs(names: Sequence[str]) -> list[str]:
    """The quantities that these methods' profile must have."""
    return list(dict.fromkeys(quantity for name in names for quantity in method(name).needs))


def allocate(
    name: str,
    spec: MoESpec,
    fingerprint: str,
    budget: float,
    sensitivity: Sensitivity | None = None,
    *,
    reference: str = "original",
    **options: Any,
) -> Plan:
    """The plan of one method for one model and budget.

    Args:
        name: a key of METHODS.
        spec, fingerprint: of the model.
        budget: B, whole, within L..L*K; `original` only takes L*K. A layer rule with another `unit` takes so much of
            that, and the plan's B is the nearest whose uniform top-(B / L) takes as much.
        sensitivity: profile of the same model, for the methods that need one.
        reference: denominator after dropping, see Plan.
        options: of the two rules, by name; what only other methods have is left out.

    Raises AllocMoEError for an unknown method or option, an impossible budget, or a missing or foreign profile.
    """
    row = method(name)
    across, within = row.rules
    if not across.amounts:
        budget = whole_budget(budget, spec.layers, spec.top_k)
    if unknown := sorted(set(options) - set(all_options())):
        raise AllocMoEError(
            f"no method has the option {shown(', '.join(unknown))}: expected {', '.join(all_options())}"
        )
    chosen = {o: option_of(options.get(o, default), default, o) for o, default in row.defaults.items()}
    weighing.check(chosen, row.token_rule)
    origin: dict[str, Any] = {}
    if row.needs_with(chosen):
        if sensitivity is None:
            raise AllocMoEError(f"{name} needs a profile of the model: make one with `allocmoe profile`")
        if (sensitivity.spec, sensitivity.fingerprint) != (spec, fingerprint):
            raise AllocMoEError("the profile was made for another model: make one with `allocmoe profile`")
        origin["profile"] = sensitivity.digest
    request = Request(spec, budget, sensitivity, chosen)
    try:
        within.check_scoring(spec.scoring)
    except AllocMoEError as error:
        raise UnreachableError(str(error)) from None  # a sweep over methods goes on without it
    found = across.found(request)
    whole = int(budget) if found.budget is None else found.budget
    return Plan(
        method=name,
        budget=whole,
        layers=tuple(found.layers),
        top_k=spec.top_k,
        token_rule=row.token_rule,
        fingerprint=fingerprint,
        family=spec.family,
        experts=spec.experts,
        parameters={**within.calibrate(replace(request, amount=whole), found.layers), **found.parameters},
        reference=reference,
        origin=origin | {o: value for o, value in chosen.items() if o in across.options} | dict(found.origin),
        norms=weighing.norms(request),  # type: ignore[arg-type]
        scale=weighing.scale(request, row.token_rule, found.layers),  # type: ignore[arg-type]
    )


def all_options() -> dict[str, Any]:
    """Every option of every method, with the first default."""
    found: dict[str, Any] = {}
    for row in METHODS.values():
        found = row.defaults | found
    return found


class Model(Protocol):
    """What a sweep wants to know of a model; an engine is one."""

    spec: MoESpec
    fingerprint: str


def sweep(
    model: Model,
    sensitivity: Sensitivity | None,
    names: Sequence[str],
    budgets: Sequence[float],
    **options: Any,
) -> list[Plan]:
    """`original` first, then every other method at every budget.

    A few layers with a large K have no ascending or descending schedule at some budgets, and some rules do not fit
    a model's router: those are left out, see `left_out`.
    """
    spec, fingerprint = model.spec, model.fingerprint
    plans = [allocate("original", spec, fingerprint, spec.original_budget)]
    for budget in budgets:
        whole = whole_budget(budget, spec.layers, spec.top_k)
        for name in names:
            if name == "original":
                continue
            try:
                plans.append(allocate(name, spec, fingerprint, whole, sensitivity, **options))
            except UnreachableError:
                continue
    return plans


def left_out(names: Sequence[str], budgets: Sequence[float], plans: Sequence[Plan]) -> list[str]:
    """What of `names` at `budgets` is not among `plans`, for people."""
    made = {(plan.method, plan.budget) for plan in plans}
    return [f"{name} at {b:g}" for b in budgets for name in names if name != "original" and (name, b) not in made]
