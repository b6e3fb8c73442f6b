"""Plans in turns, a step each: what is compared was measured a step apart, not a generation apart.

A machine that other things run on is fast in one second and slow in the next. One generation's steps are some tens of
milliseconds apart, so noise that lasts longer is the same for all plans and leaves their ratios alone. It takes an
engine in this process that ends each step before the next: vLLM on a CPU.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from allocmoe.engines.spent import COUNTS, Spent
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan

NUMBERS = itertools.count()


class Turns:
    """Some plans of an engine, any of which may be in force in any step."""

    def __init__(self, engine: Any, plans: Sequence[Plan]) -> None:
        """AllocMoEError for a plan of another model."""
        self.core = engine.llm.llm_engine
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
        self, tokens: Tensor, prompt: int, order: Sequence[int], done: Callable[[], Any] = lambda: None
    ) -> list[tuple[float, float]]:
        """One round: seconds of prefill and of all decode steps, of every plan.

        There are as many generations as plans. The first prefills under the first of `order` and goes on through it a
        step each, the next begins with the second, and so on: so each plan decodes at every length once.

        Args:
            tokens: [B, n], of which the first `prompt` are given and the others are how many to decode.
            order: the plans' numbers.
            done: called after each generation.
        """
        seconds = torch.zeros(len(self.plans), 2, dtype=torch.float64)

        def step(phase: int, plan: int) -> None:
            begin = time.perf_counter()
            self.step(len(tokens))
            seconds[plan, phase] += time.perf_counter() - begin

        self._round(tokens, prompt, order, step, done)
        return [(first, rest) for first, rest in seconds.tolist()]

    def counted(self, tokens: Tensor, prompt: int, orders: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """What the same rounds spend: {"prefill": summary, "decode": summary} of every plan."""
        layers, experts = self.budgeted.spent.shape
        found = [(Spent(layers, experts), Spent(layers, experts)) for _ in self.plans]

        def step(phase: int, plan: int) -> None:
            self.budgeted.spent.reset()
            self.step(len(tokens))
            for name in COUNTS:
                getattr(found[plan][phase], name).add_(getattr(self.budgeted.spent, name))

        self.budgeted.count(True)
        try:
            for order in orders:
                self._round(tokens, prompt, order, step, lambda: None)
        finally:
            self.budgeted.count(False)
        return [{"prefill": first.summary(), "decode": rest.summary()} for first, rest in found]

    def _round(
        self, tokens: Tensor, prompt: int, order: Sequence[int], step: Callable[[int, int], None],
        done: Callable[[], Any],
    ) -> None:  # fmt: skip
        length = tokens.shape[1] - prompt + 1
        for first in range(len(order)):
            with self.requests(tokens[:, :prompt], length):
                for i in range(length):
                    plan = order[(first + i) % len(order)]
                    self.to(plan)
                    step(min(i, 1), plan)
            done()

    @contextmanager
    def requests(self, prompts: Tensor, length: int) -> Any:
        """Requests for greedy continuations of prompts [B, n], of exactly `length` tokens; one step is one token."""
        from vllm import SamplingParams

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
