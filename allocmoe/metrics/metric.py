"""What a metric says of itself, once, for the gate, the history, the floors, the report and asv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import expm1, log1p
from typing import NamedTuple

from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.stats import Shift

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What records with odd samples raise."""


class Measured(NamedTuple):
    """A record, and for metrics that need it the unchanged model's of the same session."""

    record: Record
    original: Record | None = None


Measurements = Sequence[Measured]
"""At least one, of one model, method and budget: the one that counts, or of each session one."""


class Unit(NamedTuple):
    """How a change is told: `margin` in the unit -> the shift of `stats`, and back; digits after the point."""

    shift: Callable[[float], float]
    change: Callable[[float], float]
    digits: int = 2


UNITS = {
    "%": Unit(lambda margin: log1p(margin / 100), lambda shift: 100 * expm1(min(shift, 700.0))),  # e^700 is a float
    "points": Unit(lambda margin: margin / 100, lambda shift: 100 * shift),
    "nats": Unit(lambda margin: margin, lambda shift: shift, 4),
}
"""Shifts are differences of logarithms where changes are in percent, else of the values themselves."""


class Tracked(NamedTuple):
    """A figure of asv's, always lower is better.

    Attributes:
        name, unit: as asv shows them; the name is part of what it stores.
        samples: of one measurement.
        single: whether the one sample is shown as it is, else the samples of all sessions with their spread.
    """

    name: str
    unit: str
    samples: Callable[[Measured], Sequence[float]]
    single: bool = True


def always(record: Record) -> bool:
    """Every record of its kind is about the metric."""
    return True


def same(value: float) -> float:
    """The figure is the value."""
    return value


def above(value: float, limit: float) -> str:
    """Why a figure is beyond an upper floor, empty if it is not."""
    return f"{value:.4g} is above its floor of {limit:g}" if value > limit else ""


def below(value: float, limit: float) -> str:
    """Why a figure is beyond a lower floor, empty if it is not."""
    return f"{value:.4g} is below its floor of {limit:g}" if value < limit else ""


@dataclass(frozen=True)
class Metric:
    """One thing that is measured of every method.

    Attributes:
        name: in rows, floors and options.
        title: for people.
        about: kinds of record it is in; where the first has none, the gate takes the second's.
        unit: of a change, one of UNITS.
        lower: whether a lower value is better.
        noise: whether it differs between measurements of one commit: the history then tests its steps.
        margin: what a worsening may be and still pass the gate, in `unit`.
        minimum: the smallest change that counts in a history, relative.
        counted: what its evidence is made of, in the plural; empty where values are exact and compared as they are.
        value: of one measurement, or of several sessions together.
        compare: (new, old, alpha) -> how far it moved, above zero if for the worse.
        broken: (figure, limit) -> why a figure is beyond its floor, empty if it is not.
        shown: a figure as text.
        has: whether a record of its kind tells it.
        figure: what the gate shows, and floors limit, of a value (a speedup of a relative time).
        relative: whether values are relative to the unchanged model of the same session, so that it has none itself.
        own: what the gate shows, unjudged, of the unchanged model where the metric is relative: a figure of its
            records, and that as text; None where there is none.
        tracked: asv's figures.
        apart: whether the unchanged model lies too far away to be drawn beside the others.
        tick: format of an axis.

    `value`, `compare` and the rest raise AllocMoEError, or one of MALFORMED, for records that do not tell it.
    """

    name: str
    title: str
    about: tuple[str, ...]
    unit: str
    lower: bool
    noise: bool
    margin: float
    minimum: float
    counted: str
    value: Callable[[Measurements], float]
    compare: Callable[[Measurements, Measurements, float], Shift]
    broken: Callable[[float, float], str]
    shown: Callable[[float], str]
    has: Callable[[Record], bool] = always
    figure: Callable[[float], float] = same
    relative: bool = False
    own: tuple[Callable[[Sequence[Record]], float], Callable[[float], str]] | None = None
    tracked: tuple[Tracked, ...] = ()
    apart: bool = False
    tick: str = ".4~g"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise AllocMoEError(f"{self.name} has the unit {self.unit!r}: expected one of {', '.join(UNITS)}")

    def limit(self, margin: float) -> float:
        """A margin in `unit` as a shift."""
        return UNITS[self.unit].shift(margin)

    def change(self, shift: float) -> float:
        """A shift in `unit`."""
        return UNITS[self.unit].change(shift)

    @property
    def digits(self) -> int:
        """Of a change in `unit`, after the point."""
        return UNITS[self.unit].digits

    def told(self, record: Record) -> bool:
        """Whether a record tells this metric, of whatever kind."""
        return record.about in self.about and self.has(record)
