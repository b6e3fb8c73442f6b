"""Layer rules: how many experts each layer may activate, `k_l` for l = 0..L-1. One file a rule, one row here."""

from __future__ import annotations

from allocmoe.allocation import (
    alloc_l,
    ascending,
    descending,
    distinct,
    full,
    joint,
    lexi,
    mean,
    one_pass,
    reap,
    seer,
    uniform,
    yang,
)
from allocmoe.allocation.rule import Allocation, LayerRule, Request
from allocmoe.errors import AllocMoEError, shown

RULES = {
    rule.name: rule
    for rule in (
        full.RULE, mean.RULE, uniform.RULE, ascending.RULE, descending.RULE, lexi.RULE, alloc_l.RULE,
        joint.along("adapmoe"), joint.along("xmoe"), yang.RULE, seer.RULE, reap.RULE, distinct.RULE, one_pass.RULE,
    )
}  # fmt: skip


def layer_rule(name: str) -> LayerRule:
    """The rule of that name; AllocMoEError for a name that none has."""
    if name not in RULES:
        raise AllocMoEError(f"unknown layer rule {shown(name)}: expected one of {', '.join(RULES)}")
    return RULES[name]


__all__ = ["RULES", "Allocation", "LayerRule", "Request", "layer_rule"]
