"""The table of methods: each is a layer rule and a token rule, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from allocmoe.allocation import LayerRule, Request, layer_rule
from allocmoe.allocation.check import UnreachableError, whole_budget
from allocmoe.allocation.rule import option_of
from allocmoe.errors import AllocMoEError, shown
from allocmoe.plan import Plan
from allocmoe.routing import TokenRule, token_rule
from allocmoe.spec import MoESpec

if TYPE_CHECKING:
    from allocmoe.profile.sensitivity import Sensitivity


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        layer_rule, token_rule: names of the rule that gives k_l and of the one that keeps experts under it.
        about: what it is.
        label: how figures and prose call it; empty for its name.
        caveat: what a reader of its figures must know.
        options: of its rules, where they differ from the rules' own defaults.
    """

    layer_rule: str
    token_rule: str
    about: str
    label: str = ""
    caveat: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rules(self) -> tuple[LayerRule, TokenRule]:
        return layer_rule(self.layer_rule), token_rule(self.token_rule)

    @property
    def needs(self) -> tuple[str, ...]:
        """Quantities that a profile must have."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.needs))

    @property
    def needs_profile(self) -> bool:
        return bool(self.needs)

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options with their defaults."""
        return {name: value for rule in self.rules for name, value in rule.options.items()} | dict(self.options)


REFILLED = (
    "B counts the pairs of the base, which decide the distinct experts; more pairs are kept; "
    "depends on what else is in the batch"
)

METHODS = {
    "original": Method("full", "top_k", "the model as it is: top-K everywhere"),
    "uniform": Method("uniform", "top_k", "the same budget in every layer"),
    "ascending": Method("ascending", "top_k", "more experts in deeper layers"),
    "descending": Method("descending", "top_k", "more experts in earlier layers"),
    "lexi": Method(
        "lexi", "top_k", "LExI's data-free search (re-implementation)", "LExI",
        caveat="a re-implementation: no code or hyperparameters were published",
    ),
    "alloc-l": Method("alloc_l", "top_k", "Alloc-L: profiled, allocated exactly across layers (+L)", "Alloc-L"),
    "dynamic-moe": Method(
        "uniform", "top_p", "Dynamic-MoE: top-P, calibrated to the budget", "Dynamic-MoE",
        caveat="meets the budget on the calibration text only",
    ),
    "naee": Method(
        "uniform", "naee", "NAEE: skip weak experts, calibrated to the budget", "NAEE",
        caveat="meets the budget on the calibration text only",
    ),
    "alloc-t": Method(
        "mean", "alloc_t", "Alloc-T: strongest scores of the whole batch (+T)", "Alloc-T",
        caveat="depends on what else is in the batch and, in prefill, on later tokens",
    ),
    "alloc-moe": Method(
        "alloc_l", "alloc_t", "Alloc-MoE: Alloc-L and Alloc-T together (+L+T)", "Alloc-MoE",
        caveat="depends on what else is in the batch and, in prefill, on later tokens",
    ),
    "oea": Method(
        "uniform", "refill", "OEA: uniform top-k opens experts, tokens use the best of them", "OEA", caveat=REFILLED
    ),
    "xshare": Method(
        "uniform", "cap", "XShare: the batch may touch so many experts (re-implementation)", "XShare",
        caveat="B is the uniform top-k whose expected number of distinct experts is the cap: more pairs are kept; "
        "depends on what else is in the batch",
    ),
    "alloc-l-refill": Method(
        "alloc_l", "refill", "Alloc-L opens experts, tokens use the best of them", "Alloc-L + refill", caveat=REFILLED
    ),
    "alloc-moe-refill": Method(
        "alloc_l", "alloc_t_refill", "Alloc-MoE opens experts, tokens use the best of them", "Alloc-MoE + refill",
        caveat=REFILLED,
    ),
}  # fmt: skip
"""In the order of every table."""


def method(name: str) -> Method:
    """The row of that name; AllocMoEError for a name that none has."""
    if name not in METHODS:
        raise AllocMoEError(f"unknown method {shown(name)}: expected one of {', '.join(METHODS)}")
    return METHODS[name]


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
        budget: B, whole, within L..L*K; `original` only takes L*K.
        sensitivity: profile of the same model, for the methods that need one.
        reference: denominator after dropping, see Plan.
        options: of the two rules, by name; what only other methods have is left out.

    Raises AllocMoEError for an unknown method or option, an impossible budget, or a missing or foreign profile.
    """
    row = method(name)
    budget = whole_budget(budget, spec.layers, spec.top_k)
    if unknown := sorted(set(options) - set(all_options())):
        raise AllocMoEError(
            f"no method has the option {shown(', '.join(unknown))}: expected {', '.join(all_options())}"
        )
    chosen = {o: option_of(options.get(o, default), default, o) for o, default in row.defaults.items()}
    origin: dict[str, Any] = {}
    if row.needs_profile:
        if sensitivity is None:
            raise AllocMoEError(f"{name} needs a profile of the model: make one with `allocmoe profile`")
        if (sensitivity.spec, sensitivity.fingerprint) != (spec, fingerprint):
            raise AllocMoEError("the profile was made for another model: make one with `allocmoe profile`")
        origin["profile"] = sensitivity.digest
    request = Request(spec, budget, sensitivity, chosen)
    across, within = row.rules
    layers = across.allocate(request)
    return Plan(
        method=name,
        budget=budget,
        layers=tuple(layers),
        top_k=spec.top_k,
        token_rule=row.token_rule,
        fingerprint=fingerprint,
        family=spec.family,
        experts=spec.experts,
        parameters=within.calibrate(request, layers),
        reference=reference,
        origin=origin | {o: value for o, value in chosen.items() if o in across.options},
    )


def all_options() -> dict[str, Any]:
    """Every option of every method, with the first default."""
    found: dict[str, Any] = {}
    for row in METHODS.values():
        found = row.defaults | found
    return found


def sweep(
    spec: MoESpec,
    fingerprint: str,
    sensitivity: Sensitivity | None,
    names: Sequence[str],
    budgets: Sequence[float],
    **options: Any,
) -> list[Plan]:
    """`original` first, then every other method at every budget.

    A few layers with a large K have no ascending or descending schedule at some budgets: those are
    left out, see `left_out`.
    """
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
