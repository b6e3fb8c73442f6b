"""Analyses: what the paper's tables and figures ask of a method, beside its quality. One file each, one row here.

An analysis measures and writes records; a section of the report of the same name shows them beside the paper's numbers.
"""

from __future__ import annotations

from allocmoe.analyses import ablation, batch, calibration, entropy, k_base, layer_rules, load, neighbours, token_rules
from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.errors import AllocMoEError, shown

ANALYSES = {
    a.name: a
    for a in (
        load.ANALYSIS, entropy.ANALYSIS, ablation.ANALYSIS, k_base.ANALYSIS, calibration.ANALYSIS,
        layer_rules.ANALYSIS, token_rules.ANALYSIS, batch.ANALYSIS, neighbours.ANALYSIS,
    )
}  # fmt: skip


def analysis(name: str) -> Analysis:
    """The analysis of that name; AllocMoEError for a name that none has."""
    if name not in ANALYSES:
        raise AllocMoEError(f"unknown analysis {shown(name)}: expected one of {', '.join(ANALYSES)}")
    return ANALYSES[name]


__all__ = ["ANALYSES", "Analysis", "Setting", "analysis"]
