"""Token rules: which of a token's K candidates are kept. Scores [T, K] sorted, keep mask out."""

from allocmoe.routing.alloc_t import alloc_t
from allocmoe.routing.naee import naee
from allocmoe.routing.top_k import top_k
from allocmoe.routing.top_p import top_p

__all__ = ["alloc_t", "naee", "top_k", "top_p"]
