"""Watching what the routers of a live model decide, under whatever plan is in force."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.engines.hf import HFEngine

Note = Callable[[int, "Tensor", "Tensor", "Tensor"], None]
"""Of a layer's pass: layer, logits [T, N], combine weights [T, k], expert ids [T, k], N where dropped (weight 0)."""


@contextmanager
def observed(engine: HFEngine, note: Note) -> Iterator[None]:
    """Have `note` called for every pass of every MoE layer. Its windows must have no padding."""

    def watching(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
            note(layer, *output)  # hooks run in their order, so the engine's own has applied the plan

        return hook

    handles = [router.register_forward_hook(watching(layer)) for layer, router in enumerate(engine.routers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
