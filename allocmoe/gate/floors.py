"""Floors: absolute limits on rows, against a slow drift through refreshed baselines."""

from __future__ import annotations

from pathlib import Path

from allocmoe import documents


def load(path: Path) -> dict[str, float]:
    """Row name -> limit, from a document of kind "allocmoe.floors" (`schemas/floors.json`).

    Raises AllocMoEError for a file that cannot be read or is no such document.
    """
    return {name: float(limit) for name, limit in documents.read(path, "floors")["rows"].items()}


def broken(metric: str, value: float, limit: float) -> str:
    """Why a point estimate is beyond its limit, empty if it is not.

    A perplexity has an upper limit; an accuracy (0..1) and a speedup over the original have a lower one.
    """
    if metric == "perplexity":
        return f"{value:.4g} is above its floor of {limit:g}" if value > limit else ""
    return f"{value:.4g} is below its floor of {limit:g}" if value < limit else ""
