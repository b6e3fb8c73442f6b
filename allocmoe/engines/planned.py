"""One layer of a plan, applied to the candidates of one forward pass. Every engine uses this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan, heaviest
from allocmoe.routing import Candidates, Scoring, TokenRule
from allocmoe.routing.kernels import Fused
from allocmoe.routing.scores import PLAIN


def sort_candidates(weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates [T, K] in descending order of combine weight, ties in the router's order."""
    weights, order = weights.sort(dim=-1, descending=True, stable=True)
    return weights, index.gather(-1, order)


def by_contribution(weights: Tensor, index: Tensor, norms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates [T, K] in descending order of weight times their expert's norm [N], ties in the router's order; and
    those products, in float32."""
    worth, order = (weights.float() * norms[index.long()]).sort(dim=-1, descending=True, stable=True)
    return weights.gather(-1, order), index.gather(-1, order), worth


@dataclass(frozen=True)
class PlannedLayer:
    """Combine weights [T, K] and expert ids [T, K] in, the same with dropped pairs marked out.

    Attributes:
        rule: the plan's token rule.
        numbers: its numbers for this layer, "k" among them, and the plan's "norms" [N] and "scale" where it has some.
            As tensors, nothing waits for the device and no shape depends on them: a captured graph then follows when
            their values are changed.
        top_k: K.
        dropped: id that marks a dropped pair; its weight is 0.
        reference: see Plan.
        scoring: of the model's layer, for rules that read the router's logits.
        fused: all of this in one launch, see `routing.kernels`; None to run the reference.
    """

    rule: TokenRule
    numbers: Mapping[str, Any]
    top_k: int
    dropped: int
    reference: str = "original"
    scoring: Scoring = PLAIN
    fused: Fused | None = None

    @classmethod
    def of(
        cls,
        plan: Plan,
        layer: int,
        dropped: int | None = None,
        scoring: Callable[[], Scoring] = lambda: PLAIN,
        device: torch.device | None = None,
        fused: Fused | None = None,
    ) -> PlannedLayer:
        """One MoE layer of a plan.

        Args:
            plan, layer: which.
            dropped: see above; the sentinel id N unless said otherwise.
            scoring: called for the layer's scoring if the rule reads logits, so that a router that is not understood
                is refused (AllocMoEError) there and nowhere else.
            device: lists of numbers become tensors there, now and not at every pass.
            fused: see above.
        """
        rule = plan.rule
        numbers = {name: _wide(value, device) for name, value in plan.numbers(layer).items()}
        if "norms" in numbers:
            numbers["norms"] = numbers["norms"].float()  # as weights are
        known = scoring() if rule.logits else PLAIN
        rule.check_scoring(known.name)
        sentinel = plan.experts if dropped is None else dropped
        return cls(rule, numbers, plan.top_k, sentinel, plan.reference, known, fused)

    @property
    def ragged(self) -> bool:
        """Whether tokens of one pass may keep different numbers of experts."""
        return self.rule.ragged or isinstance(self.numbers["k"], Tensor)

    @property
    def idle(self) -> bool:
        """Whether it leaves every answer of the router as it is."""
        whole = self.rule.untouched and not self.ragged and self.numbers["k"] == self.top_k
        return whole and self.numbers.get("scale", 1.0) == 1.0

    @property
    def alone(self) -> bool:
        """Whether every token is decided by itself."""
        return self.rule.alone

    @property
    def many(self) -> bool:
        """Whether several passes can be decided at once: weights and ids [passes, T, K]."""
        return self.rule.many

    def on(self, device: torch.device) -> PlannedLayer:
        """The same with tensors as numbers, to be changed under a captured graph."""
        made = {n: torch.as_tensor(v, dtype=_type(v)).to(device, copy=True) for n, v in self.numbers.items()}
        return replace(self, numbers=made)

    def follow(self, other: PlannedLayer) -> None:
        """Take over another's numbers, in place; AllocMoEError if it is of another kind."""
        for what, mine, theirs in (
            ("token_rule", self.rule.name, other.rule.name), ("reference", self.reference, other.reference),
            ("numbers", ", ".join(self.numbers), ", ".join(other.numbers)),
        ):  # fmt: skip
            if mine != theirs:
                raise AllocMoEError(
                    f"this engine's graphs were captured with {what} {mine}, the plan has {theirs}: start the engine "
                    "with enforce_eager to switch between them"
                )
        values = {n: torch.as_tensor(other.numbers[n], dtype=_type(other.numbers[n])) for n in self.numbers}
        for name, value in values.items():
            if value.shape != self.numbers[name].shape:
                raise AllocMoEError(
                    f"this engine's graphs were captured with another number of values in {name}: start the engine "
                    "with enforce_eager to switch between them"
                )
        for name, value in values.items():
            self.numbers[name].copy_(value)

    def __call__(
        self, weights: Tensor, index: Tensor, valid: Tensor | None, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Args: combine weights and ids [T, K] in any order, which rows are real (None: all), logits [T, N]."""
        if self.idle:
            return weights, index
        offered, found = weights, None
        if self.fused is not None:
            found = self.fused(self.rule, self.numbers, self.scoring, weights, index, valid, logits, self.dropped)
        weights, index = found or self._kept(weights, index, valid, logits)
        if self.reference != "original":
            weights = weights * self._made_up(offered, weights)
        return (weights * self.numbers["scale"], index) if "scale" in self.numbers else (weights, index)

    def _kept(
        self, weights: Tensor, index: Tensor, valid: Tensor | None, logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The candidates, the best first, dropped pairs marked out."""
        worth = None
        if "norms" in self.numbers:
            weights, index, worth = by_contribution(weights, index, self.numbers["norms"])
        else:
            weights, index = sort_candidates(weights, index)
        offered = Candidates(weights, index, valid, logits, self.scoring, worth)
        weights, index, keep = self.rule.select(offered, self.numbers)
        if valid is not None:
            keep = valid[:, None].expand_as(index) if keep is None else keep & valid[:, None]
        if keep is not None:
            weights, index = weights.masked_fill(~keep, 0.0), index.masked_fill(~keep, self.dropped)
        return weights, index

    def _made_up(self, offered: Tensor, kept: Tensor) -> Tensor:
        """Of weights [T, K] offered and [T, k] kept, the factor [T, 1] that makes up for what is dropped."""
        ranked, first = offered.sort(dim=-1, descending=True).values, heaviest(self.reference)
        mine = kept.sum(-1, keepdim=True)
        top = ranked[..., :first].sum(-1, keepdim=True) if first else mine
        return torch.where(mine > 0, ranked.sum(-1, keepdim=True) / torch.maximum(mine, top), 1.0)


def _wide(value: Any, device: torch.device | None) -> Any:
    """A list of numbers as a tensor; one number as it is."""
    return torch.tensor(value, dtype=torch.float64).to(device or "cpu") if isinstance(value, tuple) else value


def _type(value: Any) -> torch.dtype:
    return value.dtype if isinstance(value, Tensor) else torch.float64
