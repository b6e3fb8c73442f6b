"""How much `tune` measures in how many minutes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from allocmoe.errors import AllocMoEError
from allocmoe.measure.protocol import Protocol

WINDOW = 256


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        calibration: windows of the profile.
        pairs: whether Alloc-D's profile says what fewer pairs lose, which takes several times as long.
        windows: (few, more, all) held-out windows, for the first look, the choice, and the final loss.
        fit, final: protocols of the fit and of the finalists' session; their batch is the wish's.
        rounds: of timing finalists, where the first did not turn out as fast as predicted.
    """

    calibration: int
    windows: tuple[int, int, int]
    fit: Protocol
    final: Protocol
    rounds: int = 3
    pairs: bool = False


SIZES = {
    0: Size(8, (8, 16, 32), Protocol(decode=8, warmups=1, runs=2), Protocol(decode=16, warmups=1, runs=6), 2),
    10: Size(32, (8, 24, 64), Protocol(decode=16, warmups=1, runs=4), Protocol(decode=32, warmups=2, runs=10)),
    30: Size(
        64, (16, 32, 128), Protocol(decode=32, warmups=2, runs=6), Protocol(decode=64, warmups=3, runs=16), pairs=True
    ),
}
"""From so many minutes on."""


def size_for(minutes: float, batch: int) -> Size:
    """What fits into so many minutes on a small model, in whole batches of windows."""
    if not 0 < minutes < 1e6:
        raise AllocMoEError(f"the minutes must be above 0, got {minutes:g}")
    size = SIZES[max(m for m in SIZES if m <= minutes)]
    few, more, most = (max(batch, n // batch * batch) for n in size.windows)
    counts = few, max(more, few), max(most, 2 * batch)
    return replace(
        size,
        calibration=max(size.calibration, batch),
        windows=counts,
        fit=replace(size.fit, batch=batch),
        final=replace(size.final, batch=batch),
    )
