"""What vLLM loads in every process (entry point `vllm.general_plugins`). Without a plan it changes nothing.

Two places of vLLM are wrapped: where an engine is configured, to read the plan into the config and to
refuse what cannot work; and where a worker is made, to patch the model once its weights are loaded.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from allocmoe.engines.vllm.backend import choose
from allocmoe.engines.vllm.distribution import spare_llvmlite
from allocmoe.engines.vllm.refuse import EXTENSION, check_config, check_extension
from allocmoe.engines.vllm.settings import KEY, Settings


def register() -> None:
    """Wrap vLLM; any number of times."""
    spare_llvmlite()
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.worker.worker_base import WorkerBase

    for owner, name, wrapper in (
        (EngineArgs, "create_engine_config", configured),
        (WorkerBase, "__init__", with_plan),
    ):
        stock = getattr(owner, name)
        if not hasattr(stock, "allocmoe_stock"):
            wrapped = wrapper(stock)
            wrapped.allocmoe_stock = stock
            setattr(owner, name, wrapped)


def configured(stock: Any) -> Any:
    """`EngineArgs.create_engine_config` that puts the plan itself into the config."""

    @wraps(stock)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        settings = Settings.requested(self.additional_config)
        if settings is None:
            return stock(self, *args, **kwargs)
        self.additional_config = {**self.additional_config, KEY: settings.to_dict()}
        config = stock(self, *args, **kwargs)
        check_config(config, settings)
        warn_of_drafts(config, settings)
        check_extension(config.parallel_config.worker_extension_cls)
        config.parallel_config.worker_extension_cls = config.parallel_config.worker_extension_cls or EXTENSION
        choose(config)
        return config

    return create_engine_config


def warn_of_drafts(config: Any, settings: Settings) -> None:
    """Say so at the start if draft tokens that are rejected later will have taken budget from other tokens."""
    from vllm.logger import init_logger

    plan = settings.plan
    if config.speculative_config is not None and plan is not None and not plan.rule.alone:
        init_logger("vllm.allocmoe").warning(
            "allocmoe: %s shares a budget among all tokens of a pass, draft tokens too, also those that are then "
            "rejected: greedy output may differ from that without speculative decoding",
            plan.token_rule,
        )


def with_plan(stock: Any) -> Any:
    """`WorkerBase.__init__` of a worker that patches its model after loading it."""

    @wraps(stock)
    def initialised(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        settings = Settings.of(self.vllm_config.additional_config)
        if settings is not None:
            load_model = self.load_model

            @wraps(load_model)
            def load_and_patch(*args: Any, **kwargs: Any) -> Any:
                from allocmoe.engines.vllm.refuse import unsupported

                try:
                    from allocmoe.engines.vllm.install import install
                    from allocmoe.engines.vllm.router import modular_kernels
                except ImportError as error:
                    raise unsupported(f"lacks what a plan takes hold of ({error})") from None
                with modular_kernels():
                    loaded = load_model(*args, **kwargs)
                self.allocmoe = install(self, settings)
                return loaded

            self.load_model = load_and_patch

    return initialised
