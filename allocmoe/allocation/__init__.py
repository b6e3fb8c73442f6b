"""Layer rules: how many experts each layer may activate, `k_l` for l = 0..L-1, summing to B."""

from allocmoe.allocation.alloc_l import alloc_l, normalised
from allocmoe.allocation.lexi import lexi
from allocmoe.allocation.schedules import ascending, descending, uniform

__all__ = ["alloc_l", "ascending", "descending", "lexi", "normalised", "uniform"]
