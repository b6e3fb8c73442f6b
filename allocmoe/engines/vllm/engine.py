"""An in-process vLLM whose plans can be switched: what measuring needs, and nothing a server does.

    engine = VLLMEngine.load("path/of/checkpoint")
    with engine.using(plan):
        engine.llm.generate(...)

To serve a plan, give it to `vllm serve` instead: see `docs/serve.md`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from allocmoe.engines.spent import COUNTS, Spent
from allocmoe.engines.vllm.distribution import name_cpu_build, vllm_version
from allocmoe.engines.vllm.plugin import register
from allocmoe.engines.vllm.settings import KEY
from allocmoe.engines.vllm.turns import Turns
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec, fingerprint, model_name

if TYPE_CHECKING:
    from allocmoe.engines.hf import HFEngine

DEFAULTS: dict[str, Any] = {
    "enforce_eager": True,  # plans change from run to run
    "enable_prefix_caching": False,  # what it holds was computed under another plan
    "disable_log_stats": False,  # where prefill and decode are told apart
    "max_num_seqs": 64,
    "max_num_batched_tokens": 8192,
    "additional_config": {KEY: {"live": True}},
}


def in_process(dtype: str) -> None:
    """Settings that vLLM reads from the environment, before it is imported; what the user set stays.

    One process, so that all requests of a call enter the same step: Alloc-T's batch depends on it.
    """
    name_cpu_build()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    wanted = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    if dtype == "float32":
        wanted["VLLM_MLA_DISABLE"] = "1"  # its latent attention packs weights for AMX, which has no float32
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


@contextmanager
def starting(folder: Path | str, dtype: str) -> Iterator[None]:
    """Around the making of an `LLM`: prepares for it, and what goes wrong inside is an AllocMoEError."""
    MoESpec.from_folder(folder)
    in_process(dtype)
    try:
        register()  # where the package lies unpacked, vLLM may not find its entry point
        yield
    except AllocMoEError:
        raise
    except ImportError as error:
        raise AllocMoEError(f"vLLM cannot be imported ({error}): see Install in docs/serve.md") from error
    except Exception as error:  # of vLLM's many kinds
        raise AllocMoEError(f"vLLM did not start on {folder}: {error}") from error


class VLLMEngine:
    """Around an `LLM` that was started with `additional_config={"allocmoe": {"live": True}}`.

    Attributes:
        llm: vLLM's own entry point.
        name, spec, fingerprint, tokenizer: of the model.
        plan: the plan in force, None for the unchanged model.
        skips: dropped experts cost nothing (an engine whose kernels cannot is refused at start-up).
        full_logits: vLLM gives log-probabilities of the most likely tokens alone.
    """

    skips, full_logits = True, False

    def __init__(self, llm: Any, folder: Path | str, name: str | None = None, mark: str | None = None) -> None:
        self.llm, self.name = llm, name or model_name(folder)
        self.spec, self.fingerprint = MoESpec.from_folder(folder), mark or fingerprint(folder)
        self.config = llm.llm_engine.vllm_config
        self.tokenizer = None if self.config.model_config.skip_tokenizer_init else llm.get_tokenizer()
        self.plan: Plan | None = None

    @classmethod
    def load(cls, folder: Path | str, dtype: str = "float32", device: str | None = None, *, name: str | None = None,
             mark: str | None = None, **options: Any) -> VLLMEngine:  # fmt: skip
        """Start vLLM on a checkpoint folder; `options` go to `vllm.LLM`, over DEFAULTS.

        `device` is what other engines take: a vLLM runs on the one that it was built for.
        """
        with starting(folder, dtype):
            from vllm import LLM

            llm = LLM(str(folder), dtype=dtype, **{**DEFAULTS, **options})
        return cls(llm, folder, name, mark)

    @classmethod
    def adopt(cls, engine: HFEngine) -> VLLMEngine:
        """The weights of a live transformers model in vLLM, through a folder that lasts as long as the start.

        The transformers model is given up for it.
        """
        from transformers import GenerationConfig

        dtype = str(engine.model.dtype).removeprefix("torch.")
        with tempfile.TemporaryDirectory(prefix="allocmoe-shape-") as folder:
            engine.model.generation_config = GenerationConfig()
            engine.model.save_pretrained(folder)
            engine.model.to("meta")
            return cls.load(
                folder,
                dtype,
                name=engine.name,
                mark=engine.fingerprint,
                skip_tokenizer_init=True,
                max_model_len=1024,
                additional_config={KEY: {"live": True, "any_weights": True}},  # the mark is not the folder's
            )

    def close(self) -> None:
        """Stop the engine, so that another can be started in this process."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    @property
    def vocabulary(self) -> int:
        return self.config.model_config.get_vocab_size()

    def describe(self) -> dict[str, Any]:
        """What of this engine decides a measurement: the limits on a batch are part of Alloc-T's result."""
        scheduler = self.config.scheduler_config
        return {
            "engine": "vllm",
            "vllm": vllm_version(),
            "dtype": str(self.config.model_config.dtype).removeprefix("torch."),
            "device": self.config.device_config.device_type,
            "skips": self.skips,
            "eager": self.config.model_config.enforce_eager,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        }

    def apply(self, plan: Plan | None) -> None:
        """Put a plan in force, None for the unchanged model; AllocMoEError if it is for another model."""
        if plan:
            plan.check_model(self.spec, self.fingerprint)
        self.llm.collective_rpc("allocmoe_apply", args=(plan.to_dict() if plan else None,))
        self.llm.reset_prefix_cache()
        self.plan = plan

    @contextmanager
    def using(self, plan: Plan | None) -> Iterator[VLLMEngine]:
        """Have a plan (or None) in force for a while."""
        before = self.plan
        self.apply(plan)
        try:
            yield self
        finally:
            self.apply(before)

    @contextmanager
    def count(self) -> Iterator[Spent]:
        """Count what the routers return inside; the counts are there afterwards."""
        found = Spent(self.spec.layers, self.spec.experts)
        self.llm.collective_rpc("allocmoe_count", args=(True,))
        try:
            yield found
            merged = Spent.merged(self.llm.collective_rpc("allocmoe_spent"))
            for name in COUNTS:
                setattr(found, name, getattr(merged, name))
        finally:
            self.llm.collective_rpc("allocmoe_count", args=(False,))

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, **sampling: Any) -> list[Any]:
        """Greedy continuations of exactly `tokens` tokens; all prompts enter one step."""
        from vllm import SamplingParams

        self._one_step(len(prompts), sum(map(len, prompts)))
        self.check_length(max(map(len, prompts), default=0), tokens)
        chosen = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False, **sampling)
        return self.llm.generate([{"prompt_token_ids": list(p)} for p in prompts], chosen, use_tqdm=False)

    def nll(self, ids: Tensor) -> Tensor:
        """Summed negative log-likelihood [B] in nats, float64, of windows [B, T] run as one batch."""
        found = []
        for window, output in zip(ids.tolist(), self.generate(ids.tolist(), 1, prompt_logprobs=0), strict=True):
            given = zip(window[1:], output.prompt_logprobs[1:], strict=True)
            found.append(-sum(choices[token].logprob for token, choices in given))
        return torch.tensor(found, dtype=torch.float64)

    def timed(self, tokens: Tensor, prompt: int) -> tuple[float, float]:
        """Seconds from the first request scheduled to the last first token, and from there to the last token.

        vLLM's first token comes out of prefill, so one more token than decode steps is asked for.
        """
        metrics = [r.metrics for r in self.generate(tokens[:, :prompt].tolist(), tokens.shape[1] - prompt + 1)]
        start = min(m.scheduled_ts for m in metrics)
        middle = max(m.first_token_ts for m in metrics)
        return middle - start, max(m.last_token_ts for m in metrics) - middle

    @property
    def stepwise(self) -> bool:
        """On a GPU the next step is prepared while one runs."""
        return self.config.device_config.device_type == "cpu"

    def turns(self, plans: Sequence[Plan], requests: int, tokens: int) -> Turns:
        """Plans to be timed in turns, in passes of so many requests and tokens at most."""
        self._one_step(requests, tokens)
        return Turns(self, plans)

    def counted(self, tokens: Tensor, prompt: int) -> dict[str, Any]:
        """What prefill and decode spend in a run like `timed`'s: {"prefill": summary, "decode": summary}."""
        with self.count() as prefill:
            self.generate(tokens[:, :prompt].tolist(), 1)
        with self.count() as rest:
            self.generate(tokens[:, :prompt].tolist(), tokens.shape[1] - prompt + 1)
        for name in COUNTS:  # greedy: the second run begins as the first did
            setattr(rest, name, getattr(rest, name) - getattr(prefill, name))
        return {"prefill": prefill.summary(), "decode": rest.summary()}

    def check_length(self, prompt: int, tokens: int) -> None:
        """AllocMoEError where vLLM would give fewer than `tokens` tokens after a prompt: it says nothing of that."""
        longest = self.config.model_config.max_model_len
        if prompt + tokens > longest:
            raise AllocMoEError(
                f"{prompt} tokens of a prompt and {tokens} to generate are more than the {longest} that this vLLM "
                "takes (max_model_len): give shorter prompts, or decode fewer tokens"
            )

    def _one_step(self, requests: int, tokens: int) -> None:
        scheduler = self.config.scheduler_config
        if requests > scheduler.max_num_seqs or tokens > scheduler.max_num_batched_tokens:
            raise AllocMoEError(
                f"a batch of {requests} requests and {tokens} tokens would be split over steps: this vLLM takes "
                f"{scheduler.max_num_seqs} requests and {scheduler.max_num_batched_tokens} tokens at a time"
            )
