"""Floors: absolute limits on rows, against a slow drift through refreshed baselines."""

from __future__ import annotations

from pathlib import Path

from allocmoe import documents, metrics
from allocmoe.errors import AllocMoEError


def load(path: Path) -> dict[str, float]:
    """Row name -> limit, from a document of kind "allocmoe.floors" (`schemas/floors.json`).

    Raises AllocMoEError for a file that cannot be read, is no such document or names an unknown metric.
    """
    rows = {name: float(limit) for name, limit in documents.read(path, "floors")["rows"].items()}
    for name in rows:
        try:
            metrics.get(name.rsplit("/", 1)[-1])
        except AllocMoEError as error:
            raise AllocMoEError(f"the floors {path} is not a valid floors: {name[:80]!r}: {error}") from None
    return rows
