"""Several engines at once, through Ray: one actor a device, each measuring one plan's part at a time.

What an actor measures is what one engine alone would have: a part depends on nothing that was measured before it. So
the records are the same, in the plans' order. With RAY_ADDRESS set the actors run on that cluster, which must see the
model and the data at the same paths; else they are processes of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from allocmoe.errors import AllocMoEError, first_line
from allocmoe.evaluate.loading import Evaluation
from allocmoe.evaluate.quality import Job, Measurer
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.records.origin import typed


@contextmanager
def started(asked: Evaluation, workers: int) -> Iterator[Any]:
    """What measures: one engine in this process, or several workers."""
    if workers > 1:
        with Workers(asked, workers) as found:
            yield found
    else:
        yield asked.start()


class _Actor:
    """Runs in a worker's process, around the engine there."""

    measurer: Measurer

    def start(self, asked: Evaluation) -> None:
        """Not in the constructor, of whose errors Ray keeps the text alone."""
        self.measurer = asked.start()

    def about(self) -> tuple[Any, str, list[str], dict[str, str]]:
        here = self.measurer
        return here.spec, here.fingerprint, here.parts, here.missing

    def process(self) -> int:
        return os.getpid()

    def wanted(self, jobs: Sequence[tuple[Plan, str | None]]) -> list[Record]:
        return [self.measurer.wanted(plan, part) for plan, part in jobs]

    def measure(self, plan: Plan, part: str) -> Record:
        return self.measurer.measure(plan, part)

    def join(self, plan: Plan, parts: Sequence[Record]) -> Record:
        return self.measurer.join(plan, parts)


class Workers:
    """Stand for a `Measurer`. Use as a context: the actors end with it.

    Raises AllocMoEError without Ray, without devices enough, and what a worker raises.
    """

    def __init__(self, asked: Evaluation, count: int) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise AllocMoEError("several workers need Ray: pip install 'allocmoe[ray]'") from None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray, self._started = ray, not ray.is_initialized()
        if self._started:
            here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": count, "include_dashboard": False}
            ray.init(logging_level="ERROR", log_to_driver=False, **here)
        gpus = int(asked.device == "cuda")
        devices = int(ray.cluster_resources().get("GPU", 0))
        if gpus and devices < count:
            self.close()
            raise AllocMoEError(f"{count} workers need a device each, here are {devices}: ask for fewer workers")
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
        self._actors = [actor.remote() for _ in range(count)]
        for started in [actor.start.remote(asked) for actor in self._actors]:
            self._get(started)
        self._wanted: dict[tuple[str, str | None], Record] = {}
        self.spec, self.fingerprint, self.parts, self.missing = self._get(self._actors[0].about.remote())

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._started:
            self._ray.shutdown()

    def wanted(self, plan: Plan, part: str | None = None) -> Record:
        if (plan.digest, part) not in self._wanted:  # all of a plan in one call
            asked = [(plan, one) for one in (None, *self.parts)]
            for (_, one), record in zip(asked, self._get(self._actors[0].wanted.remote(asked)), strict=True):
                self._wanted[plan.digest, one] = record
        return self._wanted[plan.digest, part]

    def join(self, plan: Plan, parts: Sequence[Record]) -> Record:
        return replace(self._get(self._actors[0].join.remote(plan, list(parts))), command=typed())

    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record]]:
        """Hand out jobs, one a worker at a time; results as they come."""
        left, running = list(reversed(jobs)), {}
        for actor in self._actors[: len(jobs)]:
            job = left.pop()
            running[actor.measure.remote(*job)] = (actor, job)
        while running:
            (done,), _ = self._ray.wait(list(running), num_returns=1)
            actor, job = running.pop(done)
            if left:
                following = left.pop()
                running[actor.measure.remote(*following)] = (actor, following)
            yield job, replace(self._get(done), command=typed())

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self.close()
            cause = error.cause
            raise cause if isinstance(cause, AllocMoEError) else AllocMoEError(f"a worker failed: {cause!r}") from None
        except self._ray.exceptions.RayActorError as error:
            self.close()
            raise AllocMoEError(f"a worker died: {first_line(error)}; what was measured is kept") from None
