"""Token rules: which of a token's candidates are kept. One file a rule, one row here."""

from __future__ import annotations

from allocmoe.errors import AllocMoEError, shown
from allocmoe.routing import adapmoe, alloc_t, cap, naee, prune, refill, threshold, top_k, top_p, xmoe
from allocmoe.routing.rule import Candidates, Numbers, Parameter, Selection, TokenRule
from allocmoe.routing.scores import Scoring

RULES = {
    rule.name: rule
    for rule in (
        top_k.RULE, alloc_t.RULE, top_p.RULE, naee.RULE, adapmoe.RULE, xmoe.RULE, prune.RULE, refill.RULE,
        refill.OVER_ALLOC_T, cap.RULE, threshold.RULE,
    )
}  # fmt: skip


def token_rule(name: str) -> TokenRule:
    """The rule of that name; AllocMoEError for a name that none has."""
    if name not in RULES:
        raise AllocMoEError(f"unknown token rule {shown(name)}: expected one of {', '.join(RULES)}")
    return RULES[name]


__all__ = ["RULES", "Candidates", "Numbers", "Parameter", "Scoring", "Selection", "TokenRule", "token_rule"]
