"""What a measured quantity is.

A quantity is a file of this package that ends in `QUANTITY = Quantity(...)`, and a row of `QUANTITIES`. It is measured
when somebody asks for it, and kept in the profile when others are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocmoe.errors import AllocMoEError, shown

if TYPE_CHECKING:
    from allocmoe.data.text import Windows
    from allocmoe.engines.hf import HFEngine
    from allocmoe.spec import MoESpec

CALIBRATION_TOKENS = 16384
"""Of what is calibrated on one batch."""

Shape = tuple[int | None, ...]
"""Of an array; None for any length."""


@dataclass(frozen=True)
class Setting:
    """What there is to measure with.

    Attributes:
        engine: of the model; whatever plan is in force is put aside.
        text, batch: calibration windows, and how many go through at a time.
        seed: of everything random.
        partial: file for an interrupted measurement, None for none.
        naive: Algorithm 1 as printed.
        progress: whether to draw a bar.
        known: quantities that were measured before, or that this one `needs`.
        decode_batch: sequences that decode together, of quantities in batches as at decode.
    """

    engine: HFEngine
    text: Windows
    batch: int
    seed: int = 0
    partial: Path | None = None
    naive: bool = False
    progress: bool = True
    known: Mapping[str, Any] = field(default_factory=dict)
    decode_batch: int = 8

    def few(self, tokens: int = CALIBRATION_TOKENS) -> Windows:
        """The first windows of the text, at most so many tokens; one window at least."""
        from allocmoe.data.text import Windows

        count = max(1, tokens // self.text.ids.shape[1])
        return Windows(self.text.ids[:count], self.text.name)


@dataclass(frozen=True)
class Quantity:
    """One measured quantity.

    Attributes:
        name: in profiles, and what layer and token rules `need`.
        about: in words.
        measure: a setting in, out comes the value (nested lists of numbers, or several by name) and what it took.
        shapes: of a spec, the shape of the value; for several, by name.
        least: smallest number in it; `positive`: none may be zero.
        needs: quantities to be measured before.
        current: of a setting and a value that was measured before on the same text, whether it may stay.
    """

    name: str
    about: str
    measure: Callable[[Setting], tuple[Any, dict[str, Any]]]
    shapes: Callable[[MoESpec], Shape | dict[str, Shape]]
    least: float = -math.inf
    positive: bool = False
    needs: tuple[str, ...] = ()
    current: Callable[[Setting, Any], bool] = lambda _setting, _value: True

    def check(self, value: Any, spec: MoESpec) -> None:
        """AllocMoEError unless a value has the shape of the model and holds numbers."""
        wanted = self.shapes(spec)
        if not isinstance(wanted, dict):
            self._check_array(value, wanted, "")
            return
        if not isinstance(value, Mapping) or set(value) != set(wanted):
            raise AllocMoEError(f"the profile's {self.name} must hold {', '.join(wanted)}: profile the model again")
        for part, shape in wanted.items():
            self._check_array(value[part], shape, f" ({part})")

    def _check_array(self, value: Any, wanted: Shape, part: str) -> None:
        import numpy as np

        found: tuple[int, ...]
        try:
            table = np.asarray(value, dtype=np.float64)
            found = table.shape
        except (TypeError, ValueError):
            table, found = np.array(math.nan), np.array(value, dtype=object).shape
        fits = len(found) == len(wanted) and all(w in (None, f) for w, f in zip(wanted, found, strict=True))
        if not fits:
            expected = [shown("any") if w is None else w for w in wanted]
            raise AllocMoEError(f"the profile's {self.name}{part} has shape {list(found)}, expected {expected}")
        if not np.isfinite(table).all() or (table < self.least).any() or (self.positive and (table <= 0).any()):
            raise AllocMoEError(
                f"the profile's {self.name}{part} holds a value that cannot be one: profile the model again"
            )


def rows(table: Any) -> list[Any]:
    """An array as the nested lists that a profile keeps."""
    return table.tolist()
