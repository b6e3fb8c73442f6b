"""Engines: a plan applied to a live model, and what was spent counted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from allocmoe.errors import AllocMoEError, shown

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.engines.head import Scores
    from allocmoe.engines.spent import Spent
    from allocmoe.plan import Plan
    from allocmoe.spec import MoESpec

# Name, which is also that of the package it needs -> "module:Class". Each class has two ways in:
# `load(folder, dtype, device)` and `adopt(engine)`, which takes over a live transformers model.
PASSES = ("prefill", "decode")
"""How the text's windows pass through the model: a batch at once, or the batch's tokens at one position at a time."""
ENGINES = {
    "transformers": "allocmoe.engines.hf:HFEngine",
    "vllm": "allocmoe.engines.vllm.engine:VLLMEngine",
}


def known(name: str) -> str:
    """The name itself; AllocMoEError if no engine has it. Imports nothing."""
    if name not in ENGINES:
        raise AllocMoEError(f"unknown engine {shown(name)}: expected {' or '.join(ENGINES)}")
    return name


def engine_class(name: str) -> Any:
    """The class of an engine, imported now; AllocMoEError for an unknown name."""
    module, _, cls = ENGINES[known(name)].partition(":")
    return getattr(import_module(module), cls)


class Engine(Protocol):
    """What evaluation and measurement ask of an engine; `HFEngine` and `VLLMEngine` are two.

    Attributes:
        name, spec, fingerprint: of the model.
        tokenizer: of the model, None without one.
        full_logits: whether it has what needs logits over the full vocabulary and a hold on every pass: `reference`,
            `scores` and `as_decode`.
        stepwise: whether plans can take turns within a run, a step each.
    """

    name: str
    spec: MoESpec
    fingerprint: str
    tokenizer: Any
    full_logits: bool

    @property
    def stepwise(self) -> bool: ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""

    def describe(self) -> dict[str, Any]:
        """What of this engine decides a measurement, for records."""

    def using(self, plan: Plan | None) -> AbstractContextManager[Any]:
        """Have a plan (or None: the unchanged model) in force for a while."""

    def count(self) -> AbstractContextManager[Spent]:
        """Count the activations and distinct experts of the forward passes inside; read it afterwards."""

    def nll(self, ids: Tensor) -> Tensor:
        """Summed negative log-likelihood [B] in nats, float64, of windows [B, T] run as one batch."""

    def reference(self, ids: Tensor) -> Tensor:
        """Last hidden states [B, T, H] of the unchanged model, whatever is in force; not counted."""

    def scores(self, ids: Tensor, reference: Tensor) -> Scores:
        """`nll` of windows [B, T], exactly, with how far each position is from `reference(ids)`."""

    def as_decode(self) -> AbstractContextManager[Any]:
        """Have `nll` and `scores` decide and count per position, as decoding the windows side by side would."""

    def timed(self, tokens: Tensor, prompt: int) -> tuple[float, float]:
        """Seconds of prefill over the first `prompt` columns of [B, n] ids, and of n - prompt decode steps."""

    def counted(self, tokens: Tensor, prompt: int) -> dict[str, Any]:
        """What prefill and decode spend in a run like `timed`'s: {"prefill": summary, "decode": summary}."""

    def turns(self, plans: Sequence[Plan], requests: int, tokens: int) -> Any:
        """What times several plans in turns of a step each, see `engines.vllm.turns`; of a `stepwise` engine."""

    def close(self) -> None:
        """Give back what a process holds only once, so that another engine can be started in it."""
