"""The transformers engine: a plan applied by a hook on every router of a live model.

    engine = HFEngine.load("path/of/checkpoint")
    with engine.using(plan):
        engine.model(input_ids)

A hook sorts the router's K candidates, asks the plan's token rule which to keep, and returns the
rest with weight 0 and the sentinel id N. Dropped experts are skipped, not multiplied by zero
(see `experts`); where a model's implementation cannot, `engine.skips` is False.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from allocmoe.engines.experts import use_skipping
from allocmoe.engines.head import Scores, window_nll, window_scores
from allocmoe.engines.passes import Rule, by_position
from allocmoe.engines.planned import PlannedLayer
from allocmoe.engines.spent import Spent
from allocmoe.errors import AllocMoEError, first_line
from allocmoe.plan import Plan
from allocmoe.routing import Scoring
from allocmoe.spec import MoESpec, fingerprint, model_name

FIXED_K = ("granitemoe",)  # families whose layer in transformers splits its work by K columns
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class HFEngine:
    """A transformers model that obeys plans.

    Attributes:
        model: the live model, in eval mode.
        spec, fingerprint: of the model.
        skips: whether dropped experts cost nothing.
        plan: the plan in force, None for the unchanged model.
        spent: counts since `spent.reset()`, when `counting` is on.
        routers: the router modules, in depth order.
    """

    full_logits, stepwise = True, False

    def __init__(self, model: PreTrainedModel, spec: MoESpec, name: str, mark: str, tokenizer: Any = None) -> None:
        self.model, self.spec, self.name, self.fingerprint = model.eval(), spec, name, mark
        self.tokenizer = tokenizer
        self.routers = [m for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")]
        if len(self.routers) != spec.layers:
            raise AllocMoEError(
                f"{name} has {len(self.routers)} routers that this engine knows, expected {spec.layers}: "
                "its transformers version may have changed them"
            )
        self.skips = use_skipping(model)
        self.plan: Plan | None = None
        self.counting = False
        self.spent = Spent(spec.layers, spec.experts, model.device)
        self._rules: list[Rule | None] = [None] * spec.layers
        self._valid: Tensor | None = None
        self._decoding, self._passes = False, 1
        model.register_forward_pre_hook(self._note_padding, with_kwargs=True)
        for layer, router in enumerate(self.routers):
            router.register_forward_hook(self._hook(layer))

    @classmethod
    def load(cls, folder: Path | str, dtype: str = "float32", device: str = "cpu") -> HFEngine:
        """Load a checkpoint folder; AllocMoEError for a folder that holds no supported MoE model."""
        spec, mark = MoESpec.from_folder(folder), fingerprint(folder)
        transformers_logging.disable_progress_bar()
        with loading("model", folder):
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], local_files_only=True)
        tokenizer = load_tokenizer(folder)
        model = model.to(torch.device(device))
        return cls(model, spec, model_name(folder), mark, tokenizer)

    @classmethod
    def adopt(cls, engine: HFEngine) -> HFEngine:
        """A live transformers model in this engine: it is there already."""
        return engine

    def close(self) -> None:
        """Nothing that a process holds only once."""

    def apply(self, plan: Plan) -> None:
        """Put a plan in force, replacing any other; AllocMoEError if it was made for another model, or
        if transformers' layer of this family cannot work with fewer than K experts."""
        plan.check_model(self.spec, self.fingerprint)
        self.check_routers()
        self._rules = [
            PlannedLayer.of(
                plan, layer, scoring=partial(scoring_of, router, self.spec), device=next(router.parameters()).device
            )
            for layer, router in enumerate(self.routers)
        ]  # fmt: skip
        self.plan = plan

    def check_routers(self) -> None:
        """AllocMoEError for a family whose routers do not give (raw logits [T, N], weights, ids) as the hook reads
        them: its layer takes what they give in another order, and top-k as fixed."""
        if self.spec.family in FIXED_K:
            raise AllocMoEError(f"transformers' {self.spec.family} layer takes top-k as fixed: no plan can change it")

    def revert(self) -> None:
        """Back to the unchanged model."""
        self._rules, self.plan = [None] * self.spec.layers, None

    @contextmanager
    def using(self, plan: Plan | None) -> Iterator[HFEngine]:
        """Have a plan (or None: the unchanged model) in force for a while."""
        before = self.plan
        self.apply(plan) if plan else self.revert()
        try:
            yield self
        finally:
            self.apply(before) if before else self.revert()

    @contextmanager
    def count(self) -> Iterator[Spent]:
        """Count the activations and distinct experts of the forward passes inside."""
        self.spent.reset()
        self.counting = True
        try:
            yield self.spent
        finally:
            self.counting = False

    def set_layer(self, layer: int, rule: Rule | None) -> None:
        """Give one layer a rule of its own, outside any plan: the profiler's way in."""
        self._rules[layer] = rule

    def backbone(self, ids: Tensor) -> Tensor:
        """Last hidden states [B, T, H] for whole windows [B, T], without the LM head."""
        self._valid, self._passes = None, ids.shape[1] if self._decoding else 1
        return self.model.base_model(input_ids=ids.to(self.model.device), use_cache=False).last_hidden_state

    @contextmanager
    def as_decode(self) -> Iterator[HFEngine]:
        """Have whole windows computed as if decoded: see `passes`. Concerns `backbone`, `nll`, `scores` and what is
        counted in them (T passes of B tokens each); calls of the model itself stay as they are."""
        before, self._decoding = self._decoding, True
        try:
            yield self
        finally:
            self._decoding = before

    @property
    def vocabulary(self) -> int:
        return self.model.config.vocab_size

    def describe(self) -> dict[str, Any]:
        """What of this engine decides a measurement, for records."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"engine": "transformers", "dtype": dtype, "device": self.model.device.type, "skips": self.skips}

    @torch.inference_mode()
    def nll(self, ids: Tensor) -> Tensor:
        """Summed negative log-likelihood [B] in nats, float64, of windows [B, T] run as one batch."""
        ids = ids.to(self.model.device)
        return window_nll(self.model.get_output_embeddings(), self.backbone(ids), ids)

    @torch.inference_mode()
    def reference(self, ids: Tensor) -> Tensor:
        """Last hidden states [B, T, H] of the unchanged model, whatever is in force; not counted."""
        before = self._rules, self.counting
        self._rules, self.counting = [None] * self.spec.layers, False
        try:
            return self.backbone(ids)
        finally:
            self._rules, self.counting = before

    @torch.inference_mode()
    def scores(self, ids: Tensor, reference: Tensor) -> Scores:
        """`nll` of windows [B, T] run as one batch, exactly, with how far each position is from `reference(ids)`."""
        ids = ids.to(self.model.device)
        return window_scores(self.model.get_output_embeddings(), self.backbone(ids), reference.to(ids.device), ids)

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> Any:
        """One pass over [B, n] ids; the KV cache."""
        return self.model(input_ids=prompt.to(self.model.device), use_cache=True, logits_to_keep=1).past_key_values

    @torch.inference_mode()
    def decode(self, cache: Any, tokens: Tensor) -> None:
        """One pass per column of [B, n] ids, after the tokens in the cache."""
        for column in tokens.to(self.model.device).split(1, dim=1):
            self.model(input_ids=column, past_key_values=cache, use_cache=True)

    def timed(self, tokens: Tensor, prompt: int) -> tuple[float, float]:
        """Seconds of prefill over the first `prompt` columns of [B, n] ids, and of decode, fed the rest."""
        tokens = tokens.to(self.model.device)
        start = self._now()
        cache = self.prefill(tokens[:, :prompt])
        middle = self._now()
        self.decode(cache, tokens[:, prompt:])
        return middle - start, self._now() - middle

    def turns(self, plans: Sequence[Plan], requests: int, tokens: int) -> Any:
        raise AllocMoEError("the transformers engine times whole runs")

    def counted(self, tokens: Tensor, prompt: int) -> dict[str, Any]:
        """What prefill and decode spend in a run like `timed`'s: {"prefill": summary, "decode": summary}."""
        with self.count() as spent:
            cache = self.prefill(tokens[:, :prompt])
            found = {"prefill": spent.summary()}
            spent.reset()
            self.decode(cache, tokens[:, prompt:])
            found["decode"] = spent.summary()
        return found

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _note_padding(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Rows that an attention mask calls padding must not get budget."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask")
        self._valid, self._passes = None, 1
        if ids is not None and mask is not None and mask.dim() == 2 and not bool(mask.all()):
            self._valid = mask[:, -ids.shape[1] :].bool().reshape(-1)

    def _hook(self, layer: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor, Tensor]) -> Any:
            rule, valid, passes = self._rules[layer], self._valid, self._passes
            logits, weights, index = output
            if valid is not None and len(valid) != len(index):
                valid = None
            if rule is not None:
                if passes == 1:
                    weights, index = rule(weights, index, valid, logits)
                else:
                    weights, index = by_position(rule, passes, weights, index, logits)
                output = (logits, weights, index)
            if self.counting:
                self.spent.add(layer, index, valid, passes)
            return output

        return hook


@contextmanager
def loading(what: str, folder: Path | str) -> Iterator[None]:
    """Around what transformers loads: it raises every kind of error for a broken folder, and here an AllocMoEError."""
    try:
        yield
    except Exception as error:
        raise AllocMoEError(f"cannot load the {what} in {folder}: {first_line(error)}") from None


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of a checkpoint folder; AllocMoEError where there is none."""
    with loading("tokenizer", folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def scoring_of(router: Any, spec: MoESpec) -> Scoring:
    """How a router of transformers scores: what its module holds, and its spec where it is always so."""
    by_method = hasattr(router, "topk_method")  # DeepSeek-V2's: it never renormalises, and groups if told to
    grouped = router.topk_method != "greedy" if by_method else hasattr(router, "num_group")
    return Scoring(
        spec.scoring.split()[-1],  # "grouped softmax" is a softmax
        renormalise=not by_method and bool(getattr(router, "norm_topk_prob", spec.renormalise)),
        scale=float(getattr(router, "routed_scaling_factor", 1.0)),
        groups=int(router.num_group) if grouped else 1,
        open_groups=int(router.topk_group) if grouped else 1,
        bias=getattr(router, "e_score_correction_bias", None),
    )
