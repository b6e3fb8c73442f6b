"""The sections of the page, in its order. Another one is its file and its row here."""

from __future__ import annotations

from allocmoe.errors import AllocMoEError
from allocmoe.report.section import Section
from allocmoe.report.sections import (
    ablation,
    batch,
    calibration,
    distinct,
    entropy,
    front,
    history,
    k_base,
    layer_rules,
    layers,
    load,
    neighbours,
    paper,
    plane,
    quality,
    seeds,
    sensitivity,
    speed,
    speedups,
    spent,
    token_rules,
    verdicts,
)

SECTIONS = (
    front.SECTION,
    plane.SECTION,
    paper.SECTION,
    verdicts.SECTION,
    quality.SECTION,
    distinct.SECTION,
    speed.SECTION,
    layers.SECTION,
    sensitivity.SECTION,
    spent.SECTION,
    ablation.SECTION,
    k_base.SECTION,
    calibration.SECTION,
    layer_rules.SECTION,
    token_rules.SECTION,
    load.SECTION,
    entropy.SECTION,
    batch.SECTION,
    neighbours.SECTION,
    seeds.SECTION,
    speedups.SECTION,
    history.SECTION,
)


def named(key: str) -> Section:
    """The section of a name. Raises AllocMoEError for a name that no section has."""
    found = {section.key: section for section in SECTIONS}
    if key not in found:
        raise AllocMoEError(f"unknown section {key[:60]!r}: expected one of {', '.join(found)}")
    return found[key]
