"""The embedded models: how they are trained, their task sets, their weights."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def shipped() -> list[str]:
    """Names of the embedded models."""
    return sorted(p.parent.name for p in MODELS.glob("*/config.json"))


def resolve(model: str) -> Path:
    """The folder of an embedded model's name, or `model` itself as a path."""
    return MODELS / model if model in shipped() else Path(model)
