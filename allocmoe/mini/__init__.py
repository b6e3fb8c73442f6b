"""The embedded models: how they are trained, their task sets, their weights."""

from __future__ import annotations

import re
from pathlib import Path

from allocmoe.errors import AllocMoEError, first_line

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
MODELS = Path(__file__).parent / "models"


def shipped() -> list[str]:
    """Names of the embedded models."""
    return sorted(p.parent.name for p in MODELS.glob("*/config.json"))


def embedded(model: str) -> bool:
    """Whether a name or a folder is that of a model that ships."""
    return model in shipped() or Path(model).resolve().parent == MODELS.resolve()


def resolve(model: str) -> Path:
    """The folder of an embedded model's name, of a path, or of a name on the Hugging Face hub, which is
    downloaded unless it is there. AllocMoEError if that fails."""
    if model in shipped():
        return MODELS / model
    folder = Path(model)
    if folder.exists() or not HUB_NAME.fullmatch(model):
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return folder
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:  # of the hub's and the network's many kinds
        raise AllocMoEError(
            f"{model} is no folder, no embedded model ({', '.join(shipped())}) and cannot be had from the hub: "
            f"{first_line(error)}"
        ) from None
