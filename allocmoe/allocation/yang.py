"""A hump over depth, `(b, h, e, p)` of Yang et al. (arXiv 2505.03531).

A re-implementation. The paper's numbers were not at hand, so the default schedule is ours: twice as many experts in
the middle as at both ends.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from allocmoe.allocation.check import shape, whole_budget
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.errors import AllocMoEError
from allocmoe.spec import MoESpec

DEFAULTS = {"b": 1.0, "h": 2.0, "e": 1.0, "p": 0.5}


def yang(
    spec: MoESpec | tuple[int, int], budget: int, b: float = 1.0, h: float = 2.0, e: float = 1.0, p: float = 0.5
) -> np.ndarray:
    """Lines from b at the first layer to h at the hump and on to e at the last, made to sum to B: int64 [L].

    Args:
        spec: of the model, or (L, K).
        budget: B.
        b, h, e: k at the first layer, at the hump and at the last, above 0. Lines that do not sum to B are multiplied
            by one factor, and clipped to 1..K, so that they do.
        p: where the hump is, 0 for the first layer to 1 for the last; the nearest layer, the later of two.

    Fractions are settled by largest remainders, ties to the earlier layer. So every layer is less than 1 from its line.
    """
    layers, top_k = shape(spec)
    budget = whole_budget(budget, layers, top_k)
    line = _line(layers, b, h, e, p)
    target = _scaled(line, budget, top_k)
    k = [math.floor(t) for t in target]
    short = budget - sum(k)
    for layer in sorted(range(layers), key=lambda i: (k[i] - target[i], i))[:short]:
        k[layer] += 1
    return np.array(k, dtype=np.int64)


def _line(layers: int, b: float, h: float, e: float, p: float) -> list[Fraction]:
    for name, value in {"b": b, "h": h, "e": e}.items():
        if not (math.isfinite(value) and value > 0):
            raise AllocMoEError(f"{name} of the hump must be a number of experts above 0, got {value:g}")
    if not 0 <= p <= 1:
        raise AllocMoEError(f"p of the hump must be within 0 (first layer) to 1 (last), got {p:g}")
    # as typed: 0.3 is three tenths, so that no rounding error settles a tie
    first, peak, last = (Fraction(repr(float(value))) for value in (b, h, e))
    hump = math.floor(Fraction(repr(float(p))) * (layers - 1) + Fraction(1, 2))
    rise = [first + (peak - first) * i / hump for i in range(hump)]
    fall = [peak + (last - peak) * i / max(1, layers - 1 - hump) for i in range(layers - hump)]
    return rise + fall


def _scaled(line: list[Fraction], budget: int, top_k: int) -> list[Fraction]:
    """The line times the factor at which it sums to B within 1..K."""

    def at(factor: Fraction) -> list[Fraction]:
        return [min(max(factor * x, Fraction(1)), Fraction(top_k)) for x in line]

    # between two of these the sum is a straight line in the factor
    bends = sorted({bound / x for x in line for bound in (Fraction(1), Fraction(top_k))})
    low = bends[0]
    for high in bends:
        below, above = sum(at(low)), sum(at(high))
        if above >= budget:
            share = Fraction(budget - below, above - below) if above > below else Fraction(0)
            return at(low + share * (high - low))
        low = high
    return at(bends[-1])


def _allocate(request: Request) -> list[float]:
    options = {name: request.options[name] for name in DEFAULTS}
    return yang(request.shape, request.budget, **options).tolist()


RULE = LayerRule("yang", _allocate, options=DEFAULTS)
