"""The sections of the page, in its order. Another one is its file and its row here."""

from __future__ import annotations

from allocmoe.errors import AllocMoEError
from allocmoe.report.section import Section
from allocmoe.report.sections import distinct, front, history, layers, plane, quality, sensitivity, speed, spent

SECTIONS = (
    front.SECTION,
    quality.SECTION,
    distinct.SECTION,
    speed.SECTION,
    plane.SECTION,
    layers.SECTION,
    sensitivity.SECTION,
    spent.SECTION,
    history.SECTION,
)


def named(key: str) -> Section:
    """The section of a name. Raises AllocMoEError for a name that no section has."""
    found = {section.key: section for section in SECTIONS}
    if key not in found:
        raise AllocMoEError(f"unknown section {key[:60]!r}: expected one of {', '.join(found)}")
    return found[key]
