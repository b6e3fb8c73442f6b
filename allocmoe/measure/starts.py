"""Engine starts in a process of their own: each begins fresh, and gives its memory back."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from allocmoe import engines, mini
from allocmoe.engines import Engine
from allocmoe.errors import AllocMoEError
from allocmoe.measure.protocol import Protocol, session
from allocmoe.measure.wide import WIDE, transplanted
from allocmoe.plan import Plan


def live(engine: str, model: str, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> Engine:
    """An engine started in this process on a model: a shape of random weights, an embedded model, or a folder."""
    from allocmoe.measure import shapes

    cls: Any = engines.engine_class(engine)
    found: Engine = (
        cls.adopt(shapes.build(model, dtype, device, seed))
        if model in shapes.SHAPES
        else cls.load(mini.resolve(model), dtype, device)
    )
    return found


def timed(
    engine: str, model: str, dtype: str, device: str, seed: int, plans: Sequence[dict[str, Any]], protocol: Protocol,
    progress: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """One session in an engine started for it, of plans as documents; records as documents.

    A wide shape runs an embedded model's plans.
    """
    started = live(engine, model, dtype, device, seed)
    try:
        made = [Plan.from_dict(plan) for plan in plans]
        if model in WIDE:
            made = [transplanted(plan, started, WIDE[model]) for plan in made]
        return [record.to_dict() for record in session(started, made, protocol, seed, progress)]
    finally:
        started.close()


def apart(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process; what goes in and comes out is pickled.

    Raises AllocMoEError, which names `what`, if the process dies; what the function raises is raised here.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_follow_parent) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise AllocMoEError(f"the process of {what} died before its session ended") from None


def _follow_parent() -> None:
    """A session does not outlive the command that asked for it, however that ended."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
