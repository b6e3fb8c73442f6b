"""Plans in turns, a step each: what is compared was measured a step apart, not a generation apart.

A machine that other things run on is fast in one second and slow in the next. One generation's steps are some tens of
milliseconds apart, so a generation's steps say how fast the machine was in it, whatever plans they ran under; that is
taken out. It takes an engine in this process that ends each step before the next: vLLM on a CPU.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from allocmoe.engines.spent import COUNTS, Spent
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan

NUMBERS = itertools.count()


def designed(plans: int, length: int, seed: int) -> np.ndarray:
    """Which plan each step of each generation runs under: ints [plans, length], one generation a row.

    Every column has each plan once, so each prefills once and decodes at every length once. Rows are in random order
    and so are columns: a plan's steps lie scattered over the round, and its neighbours change.
    """
    rng = np.random.default_rng(seed)
    rows, names = rng.permutation(plans), rng.permutation(plans)
    shifts = np.concatenate([rng.permutation(plans) for _ in range(-(-length // plans))])[:length]
    return names[(rows[:, None] + shifts) % plans]


def evened(seconds: np.ndarray, plans: np.ndarray, rounds: int = 10) -> np.ndarray:
    """Seconds [G, S] of steps under plans [G, S], as if all generations had been equally fast.

    By medians of `log seconds = plan + place + generation`, a plan having one effect on prefill (place 0) and one on
    decode steps.
    """
    logs, effects = np.log(seconds), 2 * plans + (np.arange(plans.shape[1]) > 0)
    known = [np.flatnonzero(effects.ravel() == effect) for effect in np.unique(effects)]
    generation, place, own = np.zeros((len(logs), 1)), np.zeros((1, logs.shape[1])), np.zeros(logs.shape)
    for _ in range(rounds):
        left = (logs - generation - place).ravel()
        for steps in known:
            own.ravel()[steps] = np.median(left[steps])
        place = np.median(logs - generation - own, axis=0, keepdims=True)
        generation = np.median(logs - place - own, axis=1, keepdims=True)
        generation -= generation.mean()
    return seconds / np.exp(generation)


class Turns:
    """Some plans of an engine, any of which may be in force in any step."""

    def __init__(self, engine: Any, plans: Sequence[Plan]) -> None:
        """AllocMoEError for a plan of another model."""
        self.engine, self.core = engine, engine.llm.llm_engine
        self.budgeted = self.core.model_executor.driver_worker.worker.allocmoe
        self.routers = list(self.budgeted.routers.values())
        self.plans, self.rules = plans, list[list[Any]]()
        with engine.using(None):
            for plan in plans:
                engine.apply(plan)
                self.rules.append([router.rule for router in self.routers])

    def to(self, number: int) -> None:
        """Put a plan in force for the steps that follow."""
        for router, rule in zip(self.routers, self.rules[number], strict=True):
            router.rule = rule

    def timed(
        self, tokens: Tensor, prompt: int, seed: int, done: Callable[[], Any] = lambda: None
    ) -> list[tuple[float, float]]:
        """One round: seconds of prefill and of all decode steps, of every plan.

        There are as many generations as plans, and in each the plans take turns, see `designed`. Seconds are as if the
        machine had been equally fast in all generations, see `evened`.

        Args:
            tokens: [B, n], of which the first `prompt` are given and the others are how many to decode.
            seed: of the turns.
            done: called after each generation.
        """
        seconds: list[float] = []

        def step(_phase: int, _plan: int) -> None:
            begin = time.perf_counter()
            self.step(len(tokens))
            seconds.append(time.perf_counter() - begin)

        self._round(tokens, prompt, seed, step, done)
        plans = designed(len(self.plans), tokens.shape[1] - prompt + 1, seed)
        even = evened(np.array(seconds).reshape(plans.shape), plans)
        whole = [(even[:, :1][plans[:, :1] == i], even[:, 1:][plans[:, 1:] == i]) for i in range(len(self.plans))]
        return [(float(first.sum()), float(rest.sum())) for first, rest in whole]

    def counted(
        self, tokens: Tensor, prompt: int, seeds: Sequence[int], done: Callable[[], Any] = lambda: None
    ) -> list[dict[str, Any]]:
        """What the same rounds spend: {"prefill": summary, "decode": summary} of every plan; `done` as of `timed`."""
        layers, experts = self.budgeted.spent.shape
        found = [(Spent(layers, experts), Spent(layers, experts)) for _ in self.plans]

        def step(phase: int, plan: int) -> None:
            self.budgeted.spent.reset()
            self.step(len(tokens))
            for name in COUNTS:
                getattr(found[plan][phase], name).add_(getattr(self.budgeted.spent, name))

        self.budgeted.count(True)
        try:
            for seed in seeds:
                self._round(tokens, prompt, seed, step, done)
        finally:
            self.budgeted.count(False)
        return [{"prefill": first.summary(), "decode": rest.summary()} for first, rest in found]

    def _round(
        self, tokens: Tensor, prompt: int, seed: int, step: Callable[[int, int], None],
        done: Callable[[], Any],
    ) -> None:  # fmt: skip
        length = tokens.shape[1] - prompt + 1
        before = [router.rule for router in self.routers]
        try:
            for plans in designed(len(self.plans), length, seed).tolist():
                with self.requests(tokens[:, :prompt], length):
                    for i, plan in enumerate(plans):
                        self.to(plan)
                        step(min(i, 1), plan)
                done()
        finally:  # what was in force stays in force
            for router, rule in zip(self.routers, before, strict=True):
                router.rule = rule

    @contextmanager
    def requests(self, prompts: Tensor, length: int) -> Any:
        """Requests for greedy continuations of prompts [B, n], of exactly `length` tokens; one step is one token.

        Raises AllocMoEError where vLLM takes no sequences of n + length tokens.
        """
        from vllm import SamplingParams

        self.engine.check_length(prompts.shape[1], length)
        number = next(NUMBERS)
        sampling = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False)
        names = [f"turn-{number}-{i}" for i in range(len(prompts))]
        for name, row in zip(names, prompts.tolist(), strict=True):
            self.core.add_request(name, {"prompt_token_ids": row}, sampling)
        try:
            yield
        finally:
            if self.core.has_unfinished_requests():
                self.core.abort_request(names)
                while self.core.has_unfinished_requests():
                    self.core.step()

    def step(self, requests: int) -> None:
        """AllocMoEError if a step gives not one token of every request: its time would be another's."""
        answers = self.core.step()
        if len(answers) != requests:
            raise AllocMoEError(f"a step of vLLM gave {len(answers)} answers to {requests} requests: cannot time steps")
