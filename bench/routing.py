"""What a plan's own work costs in vLLM: every step under another plan, and stock vLLM among them.

    python bench/routing.py --shape olmoe-wide --dtype bfloat16 --records reports/records/routing.jsonl

Requests decode together, and before each step another condition is put in force: stock vLLM (the model's own routers
and kernels, as if there were no plugin), the identity plan `original`, uniform top-k at several budgets, and methods.
So neighbours in time are compared, thousands of them. The routers' share of a step is taken by a clock around each
router, in steps of its own. What a method costs at equal distinct experts and pairs is the difference that a regression
on these counts leaves. One record about "routing".
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from allocmoe import records
from allocmoe.cli import script
from allocmoe.engines.vllm.engine import VLLMEngine
from allocmoe.engines.vllm.turns import Turns
from allocmoe.measure import shapes
from allocmoe.measure.planning import plans_for
from allocmoe.measure.protocol import Protocol, prompts, setup
from allocmoe.methods import METHODS as KNOWN
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.stats import Interval, log_ratio

STOCK, IDENTITY, BASELINE = "stock", "original", "uniform"
METHODS = ("uniform", "alloc-t", "alloc-moe", "alloc-c", "alloc-c-causal", "oea", "alloc-moe-refill")


@dataclass
class Steps:
    """What was measured under one condition, a number a step."""

    seconds: list[float] = field(default_factory=list)
    routing: list[float] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)


class Switch:
    """The MoE layers of an in-process vLLM, and what stands there under each condition."""

    def __init__(self, engine: VLLMEngine, plans: Sequence[Plan]) -> None:
        worker = engine.llm.llm_engine.model_executor.driver_worker.worker
        self.turns = Turns(engine, plans)
        self.budgeted, self.numbers = worker.allocmoe, {named(plan): i for i, plan in enumerate(plans)}
        runners = [m for m in worker.model_runner.get_model().modules() if type(m).__name__ == "MoERunner"]
        self.layers = [(r, r.router, r.routed_experts.quant_method.moe_kernel.fused_experts) for r in runners]
        self.applies = [vars(experts)["apply"] for _, _, experts in self.layers]
        self.clock = 0.0

    def to(self, condition: str) -> None:
        for i, (runner, router, experts) in enumerate(self.layers):
            if condition == STOCK:
                runner.router = router.inner
                vars(experts).pop("apply", None)
            else:
                runner.router, experts.apply = router, self.applies[i]
        if condition != STOCK:
            self.turns.to(self.numbers[condition])

    @contextmanager
    def clocked(self) -> Any:
        """Inside, `clock` grows by the seconds that routers take."""
        changed = [router for _, router, _ in self.layers] + [router.inner for _, router, _ in self.layers]
        for router in changed:
            router.select_experts = self._timed(router.select_experts)
        try:
            yield
        finally:
            for router in changed:
                del router.select_experts

    def _timed(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def select_experts(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            found = stock(*args, **kwargs)
            self.clock += time.perf_counter() - begin
            return found

        return select_experts

    def spent(self) -> tuple[int, int]:
        """Distinct experts and pairs that were counted so far, over all layers."""
        return int(self.budgeted.spent.distinct.sum()), int(self.budgeted.spent.activations.sum())


def named(plan: Plan) -> str:
    return f"{plan.method}/{plan.budget}"


def run(
    switch: Switch, tokens: torch.Tensor, prompt: int, order: Sequence[str], after: Callable[[str, float], None]
) -> None:  # fmt: skip
    """One generation: prefill under the first condition of `order`, then a step under each of the others."""
    with switch.turns.requests(tokens[:, :prompt], len(order)):
        for condition in order:
            switch.to(condition)
            begin = time.perf_counter()
            switch.turns.step(len(tokens))
            after(condition, time.perf_counter() - begin)


def decode(switch: Switch, tokens: torch.Tensor, protocol: Protocol, conditions: Sequence[str], seed: int,
           progress: Callable[[], None], timed_alone: bool = False) -> dict[str, Steps]:  # fmt: skip
    """Blocks of steps, each condition once a block in an order of its own; first timed, then (unless that is all)
    counted, then clocked."""
    found = {name: Steps() for name in conditions}
    blocks = protocol.decode // len(conditions)
    for number in range(protocol.warmups + protocol.runs):
        rng = random.Random(f"{seed}/{number}")
        order = [conditions[0]] + [name for _ in range(blocks) for name in rng.sample(conditions, len(conditions))]
        warm = number < protocol.warmups
        seen: list[tuple[str, float]] = []
        run(switch, tokens, protocol.prompt, order, lambda *what, seen=seen: seen.append(what))
        for name, seconds in [] if warm else seen[1:]:
            found[name].seconds.append(seconds)
        if not warm and not timed_alone:
            switch.budgeted.count(True)
            before = [(0, 0)]

            def counted(name: str, _: float, before: list[tuple[int, int]] = before) -> None:
                now = switch.spent()
                if len(before) > 1:
                    found[name].distinct.append(now[0] - before[-1][0])
                    found[name].pairs.append(now[1] - before[-1][1])
                before.append(now)

            run(switch, tokens, protocol.prompt, order, counted)
            switch.budgeted.count(False)
            with switch.clocked():
                last = [0.0]

                def clocked(name: str, _: float, last: list[float] = last) -> None:
                    if len(last) > 1:
                        found[name].routing.append(switch.clock - last[-1])
                    last.append(switch.clock)

                run(switch, tokens, protocol.prompt, order, clocked)
        progress()
    return found


def prefill(switch: Switch, tokens: torch.Tensor, protocol: Protocol, conditions: Sequence[str], seed: int,
            progress: Callable[[], None]) -> dict[str, Steps]:  # fmt: skip
    """Prefill alone: each condition once a block; timed, then clocked."""
    found = {name: Steps() for name in conditions}
    for block in range(protocol.warmups + protocol.runs):
        order = random.Random(f"{seed}/{block}").sample(conditions, len(conditions))
        for name in order:
            seen: list[float] = []
            run(switch, tokens, protocol.prompt, [name], lambda _, s, seen=seen: seen.append(s))
            with switch.clocked():
                begin = switch.clock
                run(switch, tokens, protocol.prompt, [name], lambda *_: None)
            if block >= protocol.warmups:
                found[name].seconds += seen
                found[name].routing.append(switch.clock - begin)
        progress()
    return found


def at_equal_counts(found: dict[str, Steps], base: Sequence[str], method: str) -> Interval:
    """How much longer a method's step is than uniform's at equal distinct experts and pairs, as a share of uniform's.

    Least squares of `a + b D + c P + g [method]`, over steps of uniform at several budgets and of the method; steps
    beyond three times the median distance from their condition's median are left out (the machine did something else).
    """
    from statsmodels.api import OLS

    rows, ms = [], []
    for name in (*base, method):
        steps = found[name]
        middle = median(steps.seconds)
        wide = 3 * 1.4826 * median(abs(s - middle) for s in steps.seconds)
        for s, d, p in zip(steps.seconds, steps.distinct, steps.pairs, strict=True):
            if abs(s - middle) <= wide:
                rows.append([1.0, d, p, float(name == method)])
                ms.append(s)
    fit = OLS(np.array(ms), np.array(rows)).fit()
    whole = median(s for name in base for s in found[name].seconds)
    low, high = fit.conf_int()[3]
    return Interval(float(fit.params[3]) / whole, float(low) / whole, float(high) / whole)


def share(found: dict[str, Steps], method: str, base: str) -> Interval:
    """What routing takes longer than under `base`, as a share of base's step: the median of blocks, and quartiles."""
    step = median(found[base].seconds)
    more = np.array(found[method].routing) - np.array(found[base].routing)
    low, middle, high = np.quantile(more, [0.25, 0.5, 0.75]) / step
    return Interval(float(middle), float(low), float(high))


def main(
    shape: str = "olmoe-wide",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    dtype: str = "bfloat16",
    batch: int = 8,
    prompt: int = 32,
    decode_steps: Annotated[int, typer.Option("--decode")] = 128,
    warmups: int = 2,
    runs: int = 24,
    seed: int = 0,
) -> None:
    """Append one record about routing."""
    from tqdm import tqdm

    protocol = Protocol(batch, prompt, decode_steps, warmups, runs)
    model = shapes.build(shape, dtype, "cpu", seed)
    half = model.spec.original_budget // 2
    top = model.spec.top_k
    plans = plans_for(shape, model, (IDENTITY, *METHODS), [half], beside=to, seed=seed)
    plans += [p for k in sorted({top // 2 - 1, top // 2 + 1} - {0})
              for p in plans_for(shape, model, (BASELINE,), [k * model.spec.layers], beside=to, seed=seed)
              if p.method == BASELINE]  # fmt: skip
    engine = VLLMEngine.adopt(model)
    tokens = prompts(engine, protocol, seed)
    switch = Switch(engine, plans)
    conditions = [STOCK, *dict.fromkeys(map(named, plans))]
    base = next(named(p) for p in plans if p.method == BASELINE and p.budget == half)
    identity = next(named(p) for p in plans if p.method == IDENTITY)
    with tqdm(total=3 * (warmups + runs), desc=f"routing on {shape}") as bar:
        phases = {
            # the smallest difference of all: in steps of these two alone
            "identity": decode(switch, tokens, protocol, [STOCK, identity], seed, bar.update, timed_alone=True),
            "decode": decode(switch, tokens, protocol, conditions, seed, bar.update),
            "prefill": prefill(switch, tokens, protocol, conditions, seed, bar.update),
        }
    intervals: dict[str, Interval] = {}
    intervals["decode/identity"] = log_ratio(phases["identity"][identity].seconds, phases["identity"][STOCK].seconds)
    intervals["prefill/identity"] = log_ratio(phases["prefill"][identity].seconds, phases["prefill"][STOCK].seconds)
    for phase, found in list(phases.items())[1:]:
        for plan in plans:
            name = named(plan)
            if name != base and plan.budget == half and plan.method != IDENTITY:
                intervals[f"{phase}/routing/{plan.method}"] = share(found, name, base)
                if phase == "decode" and not KNOWN[plan.method].small_passes:  # else with pairs that uniform never has
                    uniform = [named(p) for p in plans if p.method == BASELINE]
                    intervals[f"{phase}/equal/{plan.method}"] = at_equal_counts(found, uniform, name)
    record = Record(
        about="routing", model=engine.name, fingerprint=engine.fingerprint, method=None, budget=half, plan=None,
        setup=setup(engine, protocol, seed),
        metrics={name: i.estimate for name, i in intervals.items()},
        samples={f"{phase}_s/{n}": steps.seconds for phase, found in phases.items() for n, steps in found.items()},
        details={
            "intervals": {name: [i.low, i.high] for name, i in intervals.items()},
            "median_ms": {
                phase: {name: 1e3 * median(steps.seconds) for name, steps in found.items()}
                for phase, found in phases.items()
            },
            "routing_us": {
                phase: {name: 1e6 * median(steps.routing) for name, steps in found.items() if steps.routing}
                for phase, found in phases.items()
            },
        },
    )  # fmt: skip
    records.append(to, record)
    print(json.dumps({"records": str(to), "intervals": {n: list(i) for n, i in intervals.items()}}))


if __name__ == "__main__":
    script(main)
