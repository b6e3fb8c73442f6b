"""REAP's share of experts (arXiv 2510.13999): as many experts stay in every layer, see `seer`."""

from __future__ import annotations

from allocmoe.allocation.rule import LayerRule
from allocmoe.allocation.seer import allocate

RULE = LayerRule("reap", allocate, needs=("saliency",), options={"rank_by": "saliency"})
