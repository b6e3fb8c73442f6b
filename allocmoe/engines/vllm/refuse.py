"""What the plugin turns down, before the engine serves anything: wrong routing is never silent."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

from allocmoe.engines.vllm.distribution import vllm_version
from allocmoe.engines.vllm.settings import Settings
from allocmoe.errors import AllocMoEError
from allocmoe.spec import MoESpec, fingerprint

EXTENSION = "allocmoe.engines.vllm.worker.PlanWorker"
SUPPORTED = "0.30 to 0.32 on a CPU, 0.31 to 0.33 on CUDA"


def unsupported(what: str) -> AllocMoEError:
    """The installed vLLM lacks something that plans need."""
    return AllocMoEError(f"vLLM {vllm_version()} {what}; plans work with vLLM {SUPPORTED}")


def check_config(config: Any, settings: Settings) -> None:
    """AllocMoEError if a VllmConfig cannot be served under these settings."""
    from vllm import envs

    parallel, on_cpu = config.parallel_config, config.device_config.device_type == "cpu"
    mapped = parallel.enable_expert_parallel and parallel.tensor_parallel_size > 1
    padding_told = not getattr(config, "use_v2_model_runner", False) or getattr(envs, "VLLM_MOE_SKIP_PADDING", False)
    for unfit, instead in (
        (parallel.data_parallel_size > 1, "data parallelism inside one engine: run one engine per replica instead"),
        (mapped and on_cpu, "expert parallelism on a CPU, whose kernel knows no expert map: use tensor parallelism"),
        (getattr(parallel, "prefill_context_parallel_size", 1) > 1, "prefill context parallelism: leave it out"),
        (getattr(parallel, "use_ubatching", False), "microbatching (DBO): leave it out"),
        (config.lora_config is not None, "LoRA adapters: merge them into the weights"),
        (_returns_experts(config), "enable_return_routed_experts, which has no id for a dropped expert: leave it out"),
        # its mask stays as a dummy run left it, all padding, and every expert of every token would be dropped
        (not padding_told, "VLLM_MOE_SKIP_PADDING off under vLLM's V2 model runner: set it to 1"),
    ):
        if unfit:
            raise AllocMoEError(f"a plan cannot be served with {instead}")
    spec = MoESpec.from_config(config.model_config.hf_text_config)
    if settings.plan:
        check_plan(settings.plan, spec, None if settings.any_weights else model_fingerprint(config))


def _returns_experts(config: Any) -> bool:
    """Whether chosen experts go out with the answers, as unsigned numbers: -1 would read as expert 255."""
    owners = (getattr(config, "aux_output_config", None), config.model_config)  # since 0.31, and before
    return any(getattr(owner, "enable_return_routed_experts", False) for owner in owners)


def check_extension(name: str) -> None:
    """AllocMoEError if a worker extension of the user's own would leave a worker without the plan."""
    if name:
        try:
            own, theirs = pkgutil.resolve_name(EXTENSION), pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise AllocMoEError(f"the worker extension {name} cannot be imported: {error}") from error
        if not issubclass(theirs, own):
            raise AllocMoEError(
                f"the worker extension {name} takes the place of the plan's own: derive it from "
                "allocmoe.engines.vllm.worker.PlanWorker"
            )


def check_plan(plan: Any, spec: MoESpec, mark: str | None) -> None:
    """AllocMoEError if a plan is for another model; `mark` None leaves the weights unchecked."""
    plan.check_model(spec, plan.fingerprint if mark is None else mark)


def model_fingerprint(config: Any) -> str | None:
    """Fingerprint of the weights that a VllmConfig names; None while they are not on this machine."""
    folder = Path(config.model_config.model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(str(folder), revision=config.model_config.revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
            return None
    try:
        return fingerprint(folder)
    except AllocMoEError:
        return None
