"""Factor that brings what a layer keeps closest to what it would be in full, by least squares.

`<y_full, y_kept> / ||y_kept||^2`, y the sum of a token's weighted experts, both summed over the tokens of the text; the
model is otherwise unchanged. For uniform top-k of k = 1..K, and for Alloc-T of k = 1..K by halves, each with candidates
in the order of their weights and of their contributions: four tables [steps][L].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.routing.steps import ORDERS, in_order, kept_counts, table_of, tables

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 2048
"""Of calibration text, whose K outputs of a layer are held together."""


def factor(prefixes: Tensor, counts: Tensor) -> float:
    """The factor, of prefix sums [T, K, H] of every token's outputs and how many of its first each keeps [T]."""
    import torch

    full = prefixes[:, -1].double()
    place = (counts - 1)[:, None, None].expand(-1, 1, prefixes.shape[2])
    kept = prefixes.gather(1, place)[:, 0].double()
    size = kept.square().sum()
    return float((full * kept).sum() / size) if bool(size > torch.finfo(torch.float64).tiny) else 1.0


def rescale(setting: Setting) -> dict[str, np.ndarray]:
    """The four tables. The text goes through as one batch: give some thousand tokens.

    Raises AllocMoEError for a family whose routers do not give weights and ids as others do.
    """
    import torch

    from allocmoe.profile.algorithm1 import block_of, each_output

    engine, spec = setting.engine, setting.engine.spec
    engine.check_routers()
    found = {name: np.ones(shape) for name, shape in tables(spec).items()}

    def fitting(layer: int) -> Any:
        block, norms = block_of(engine, layer), torch.tensor(setting.known["norms"][layer], device=engine.model.device)

        def hook(_module: Any, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
            x, (_, weights, index) = args[0].flatten(0, -2), output
            each = each_output(block, x, weights, index)
            for order in ORDERS:
                scores, place = in_order(weights, index, norms if order == "contribution" else None)
                prefixes = each.gather(1, place[:, :, None].expand_as(each)).cumsum(1)
                for name, counts in kept_counts(scores):
                    column = found[table_of(name, order)][:, layer]
                    column[:] = [factor(prefixes, count) for count in counts]

        return hook

    text = setting.few(TOKENS)
    with torch.inference_mode(), engine.using(None):
        hooks = [router.register_forward_hook(fitting(layer)) for layer, router in enumerate(engine.routers)]
        try:
            engine.backbone(text.ids)
        finally:
            for hook in hooks:
                hook.remove()
    return found


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    found = {name: table.tolist() for name, table in rescale(setting).items()}
    return found, {"windows": len(setting.few(TOKENS).ids)}


QUANTITY = Quantity(
    "rescale",
    "factor that brings a layer's kept output closest to its full one, per k and layer",
    _measure,
    shapes=lambda spec: dict(tables(spec)),
    needs=("norms",),
)
