"""Section: a heading, the figures under it, and the caption that each of them gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from allocmoe.report.results import Results
    from allocmoe.report.table import Table


@dataclass(frozen=True)
class Block:
    """A figure of a section (or words alone, without one), with the facts that its caption tells.

    Attributes:
        model: whose tab it stands on; empty: of the model that its title names, else on every tab.
        engine: label of the speed group that it shows, which a reader may choose; empty for what is not timed.
        table: what stands under it; empty: the numbers that the figure draws.
    """

    title: str
    figure: Figure | None
    facts: dict[str, Any]
    model: str = ""
    engine: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        key: its name, the anchor it is linked by.
        heading: plain text.
        blocks: what it shows of the results; none, and the page leaves the section out.
        caption: of each block, a Jinja template that sees the block's facts as `f`.
        folded: whether a reader has to open it.
    """

    key: str
    heading: str
    blocks: Callable[[Results], Iterable[Block]]
    caption: str
    folded: bool = True
