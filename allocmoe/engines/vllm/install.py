"""A worker's model, made to obey plans: once after its weights are loaded, before anything runs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from vllm.logger import init_logger
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.platforms import current_platform

from allocmoe.engines.planned import PlannedLayer
from allocmoe.engines.spent import Spent
from allocmoe.engines.vllm.backend import advice
from allocmoe.engines.vllm.kernels import prepare
from allocmoe.engines.vllm.refuse import check_plan, model_fingerprint, unsupported
from allocmoe.engines.vllm.router import DROPPED, BudgetRouter, scoring_of
from allocmoe.engines.vllm.settings import Settings
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.routing.kernels import fused_on
from allocmoe.spec import MoESpec, moe_layers

logger = init_logger("vllm.allocmoe")  # under vLLM's root, so that its settings for logging hold


class Budgeted:
    """The MoE layers of one worker.

    Attributes:
        plan: in force, None for the model as it is.
        routers: MoE layer -> its router; under pipeline parallelism a worker has some of the layers.
        spent: counts, of this worker's layers.
        path: what the kernels do, for people.
    """

    def __init__(self, model: Any, config: Any, settings: Settings) -> None:
        self.settings = settings
        self.plan: Plan | None = None
        hf_config = config.model_config.hf_text_config
        self.spec = MoESpec.from_config(hf_config)
        self.mark = None if settings.any_weights else model_fingerprint(config)
        order = {decoder: i for i, decoder in enumerate(moe_layers(hf_config))}
        runners = {order.get(m.layer_id, -1): m for m in model.modules() if isinstance(m, MoERunner)}
        if -1 in runners or (config.parallel_config.pipeline_parallel_size == 1 and len(runners) != self.spec.layers):
            raise unsupported(f"built {len(runners)} MoE layers where the model's config has {self.spec.layers}")
        self.scaled = any(runner.routed_scaling_factor != 1.0 for runner in runners.values())
        self.device = next(model.parameters()).device
        paths, probed, instead = set(), set[Hashable](), advice(config)
        self.routers: dict[int, BudgetRouter] = {}
        for layer, runner in sorted(runners.items()):
            runner.router = self.routers[layer] = BudgetRouter(runner.router)
            paths.add(prepare(runner, self.device, instead, probed))
        self.path = " and ".join(sorted(paths))
        self.fused = fused_on(self.device)
        self.spent = Spent(self.spec.layers, self.spec.experts, self.device)
        self.captured = _opaque(runners.values(), config)
        if self.captured and settings.live and settings.plan is None:
            raise AllocMoEError(
                "captured graphs keep the token rule that they were captured with: give a first plan, "
                "or start the engine with enforce_eager"
            )
        if settings.plan:
            self.apply(settings.plan)
        self.count(settings.count)

    def apply(self, plan: Plan | None) -> None:
        """Put a plan in force, None for the model as it is; AllocMoEError if it does not fit."""
        if plan:
            check_plan(plan, self.spec, self.mark)
            if plan.rule.absolute and self.scaled:
                raise AllocMoEError(
                    f"this model's combine weights are scaled after the experts, and {plan.token_rule} compares them "
                    "with thresholds that were calibrated on scaled ones: use another method's plan"
                )
        elif self.captured and self.plan:
            plan = everything(self.plan)
        rules = {
            layer: PlannedLayer.of(plan, layer, DROPPED, partial(scoring_of, router.inner), self.device, self.fused)
            if plan
            else None
            for layer, router in self.routers.items()
        }
        for layer, router in self.routers.items():
            rule = rules[layer]
            if not (self.captured and self.settings.live) or rule is None:
                router.rule = None if rule is None or rule.idle else rule  # nothing to do costs nothing
            elif router.rule is None:
                router.rule = rule.on(self.device)
            else:
                router.rule.follow(rule)
        self.plan = plan

    def count(self, on: bool) -> None:
        """Count, or stop counting; either way the counts start again at zero.

        Captured graphs count as they were captured: always or never.
        """
        self.spent.reset()
        if self.captured and on and not self.settings.count:
            raise AllocMoEError('this engine captures graphs: to count activations start it with "count": true')
        on = on or (self.captured and self.settings.count)
        for layer, router in self.routers.items():
            router.counter = (lambda ids, valid, layer=layer: self.spent.add(layer, ids, valid)) if on else None

    def describe(self) -> str:
        """One line for a log."""
        plan, full, checked = self.plan, self.spec.original_budget, "" if self.mark else ", weights not checked"
        what = f"{plan.method} at {plan.budget} of {full}, plan {plan.digest}{checked}" if plan else "no plan yet"
        return f"allocmoe: {what}; {len(self.routers)} of {self.spec.layers} MoE layers patched; {self.path}"


def install(worker: Any, settings: Settings) -> Budgeted:
    """Make a worker's model obey; AllocMoEError, before it has served anything, if it cannot."""
    found = Budgeted(worker.model_runner.get_model(), worker.vllm_config, settings)
    if worker.rank == 0:
        logger.info(found.describe())
    return found


def _opaque(runners: Any, config: Any) -> bool:
    """Whether graphs are captured on a device. A compiled graph must call the layer and not contain it:
    on CUDA vLLM sees to that by itself, on a CPU it would trace through the router."""
    if not current_platform.is_cpu():
        return config.compilation_config.cudagraph_mode.has_full_cudagraphs() or bool(
            config.compilation_config.cudagraph_mode.has_piecewise_cudagraphs()
        )
    if config.model_config.enforce_eager:
        return False  # nothing is compiled, and the call costs
    for runner in runners:
        if not hasattr(runner, "_forward_entry"):
            raise unsupported("cannot keep the MoE layer out of a compiled graph")
        shared = runner.shared_experts is not None
        runner._forward_entry = torch.ops.vllm.moe_forward_shared if shared else torch.ops.vllm.moe_forward
    return False


def everything(plan: Plan) -> Plan:
    """A plan of the same token rule that keeps all K."""
    depth, own = len(plan.layers), plan.rule.parameters
    whole = plan.rule.keep_all(plan.top_k, plan.experts)
    parameters = {name: p.everywhere(whole[name], depth) for name, p in own.items()}
    return replace(
        plan, method="original", budget=plan.top_k * depth, layers=(float(plan.top_k),) * depth, parameters=parameters,
        scale=(1.0,) * len(plan.scale),
    )  # fmt: skip
