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
SUPPORTED = "0.30 to 0.32 on a CPU, 0.26 to 0.33 on CUDA"


def unsupported(what: str) -> AllocMoEError:
    """The installed vLLM lacks something that plans need."""
    return AllocMoEError(f"vLLM {vllm_version()} {what}; plans work with vLLM {SUPPORTED}")


def check_config(config: Any, settings: Settings) -> None:
    """AllocMoEError if a VllmConfig cannot be served under these settings."""
    parallel = config.parallel_config
    for unfit, instead in (
        (parallel.data_parallel_size > 1, "data parallelism inside one engine: run one engine per replica instead"),
        (parallel.enable_expert_parallel, "expert parallelism: use tensor parallelism"),
        (getattr(parallel, "prefill_context_parallel_size", 1) > 1, "prefill context parallelism: leave it out"),
        (getattr(parallel, "use_ubatching", False), "microbatching (DBO): leave it out"),
        (config.lora_config is not None, "LoRA adapters: merge them into the weights"),
    ):
        if unfit:
            raise AllocMoEError(f"a plan cannot be served with {instead}")
    spec = MoESpec.from_config(config.model_config.hf_text_config)
    if settings.plan:
        check_plan(settings.plan, spec, None if settings.any_weights else model_fingerprint(config))


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
