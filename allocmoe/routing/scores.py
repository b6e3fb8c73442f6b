"""From a router's logits to what it chooses by and what it weighs with, for all N experts and not its K alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allocmoe.errors import AllocMoEError, shown

if TYPE_CHECKING:
    from torch import Tensor

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": lambda logits: logits.sigmoid(),
}


@dataclass(frozen=True)
class Scoring:
    """How one layer of a model scores its experts. Engines read it off the live router.

    A softmax after top-k (gpt-oss, Granite) is a softmax over all experts, renormalised.

    Attributes:
        function: of the logits, a name of FUNCTIONS.
        renormalise: weights are divided by the mass of the router's own K.
        scale: of the weights, after that.
        groups, open_groups: experts come in so many equal groups, of which a token may use so many: those with the
            largest score of an expert, or with a bias the largest sum of two.
        bias: [N], added to the scores for choosing and not for weighing; None for none.
    """

    function: str = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    groups: int = 1
    open_groups: int = 1
    bias: Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise AllocMoEError(
                f"this model's router scores by {shown(self.function)}, and plans that look beyond its K experts know "
                f"{', '.join(FUNCTIONS)}: use another method's plan"
            )
        if not 1 <= self.open_groups <= self.groups:
            raise AllocMoEError(f"a router cannot open {self.open_groups} of {self.groups} groups of experts")

    @property
    def name(self) -> str:
        """As `MoESpec.scoring` calls it."""
        return f"grouped {self.function}" if self.open_groups < self.groups else self.function

    def __call__(self, logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Selection scores and combine weights, both like the logits, in float32.

        Args:
            logits: [T, N], or [passes, T, N].
            ids: [..., K], the router's own choice, whose mass a renormalising model divides by; rows of padding may
                hold -1.

        Returns:
            Selection scores, -inf for experts that a token may not use; and the weights that experts have if chosen.
            Without a bias an expert is chosen by its logit: both functions rise with it, and rounding makes no ties.
        """
        import torch

        logits = logits.float()
        raw = FUNCTIONS[self.function](logits)
        chosen = logits if self.bias is None else raw + self.bias.float()
        if self.open_groups < self.groups:
            parts = chosen.unflatten(-1, (self.groups, -1))
            worth = parts.topk(1 if self.bias is None else 2, dim=-1).values.sum(-1)
            usable = torch.zeros_like(worth, dtype=torch.bool)
            usable = usable.scatter(-1, worth.topk(self.open_groups, dim=-1).indices, True)
            chosen = parts.masked_fill(~usable[..., None], -math.inf).flatten(-2)
        weights = raw
        if self.renormalise:
            weights = raw / raw.gather(-1, ids.long().clamp(min=0)).sum(-1, keepdim=True)
        return chosen, weights * self.scale


PLAIN = Scoring()
"""A softmax over all experts, as the paper's three models have it."""
