"""What a layer's dropping costs to second order, from one pass forward and backward.

`1/2 mean (g . (y_kept - y_full))^2`, y the sum of a token's weighted experts, and g the gradient, at the block's
output, of the NLL of a token that is drawn from the model's own distribution. Squares of such gradients add up to the
Fisher matrix, which is how the KL divergence from the unchanged model bends; its slope there is 0. So this is the
divergence that one layer's dropping brings, nats a token, between tokens taken as independent. For all layers, rules
and steps at once: see `steps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allocmoe.profile.quantities.fisher import TOKENS, Labels, gradients
from allocmoe.profile.quantities.quantity import Quantity, Setting
from allocmoe.profile.quantities.saliency import ROWS
from allocmoe.routing.steps import ORDERS, in_order, kept_counts, table_of, tables

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.engines.hf import HFEngine


def curvature(setting: Setting) -> dict[str, np.ndarray]:
    """Every table of `steps.tables`, nats a token; 0 where all K are kept.

    Raises AllocMoEError for a family whose routers do not give weights and ids as others do.
    """
    import torch

    engine, spec = setting.engine, setting.engine.spec
    engine.check_routers()
    found = {name: np.zeros(shape) for name, shape in tables(spec).items()}
    norms = torch.tensor(setting.known["norms"], device=engine.model.device)
    count = 0

    text, labels = setting.few(TOKENS), drawn(setting.seed)
    for ids, slopes, read in gradients(engine, text, setting.batch, "curvature", labels, setting.progress):
        count += ids[:, 1:].numel()
        with torch.no_grad():
            for layer in range(spec.layers):
                weights, index, parts = shares(engine, layer, read[layer].flatten(0, 1), slopes[layer].flatten(0, 1))
                for order in ORDERS:
                    scores, place = in_order(weights, index, norms[layer] if order == "contribution" else None)
                    sums = parts.gather(1, place).cumsum(1)
                    for rule, counts in kept_counts(scores):
                        column = found[table_of(rule, order)][:, layer]
                        column += [bend(sums, kept) for kept in counts]
    return {name: table / count for name, table in found.items()}


def drawn(seed: int) -> Labels:
    """A token for each row of logits [n, V], from the distribution that they are."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def labels(logits: Tensor, _targets: Tensor) -> Tensor:
        p = logits.float().softmax(-1).cpu()
        return torch.multinomial(p, 1, generator=generator)[:, 0].to(logits.device)

    return labels


def shares(engine: HFEngine, layer: int, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a block's input and gradient [T, H]: its candidates' weights and ids [T, K], and the gradient times each
    weighted output [T, K], float64."""
    import torch

    from allocmoe.profile.algorithm1 import block_of, each_output

    block, parts = block_of(engine, layer), []
    _, weights, index = engine.routers[layer](x)
    for rows, g, w, e in zip(*(t.split(ROWS) for t in (x, slope, weights, index)), strict=True):
        parts.append(torch.einsum("tkh,th->tk", each_output(block, rows, w, e).double(), g.double()))
    return weights, index, torch.cat(parts)


def bend(sums: Tensor, kept: Tensor) -> float:
    """Half the summed squares of what [T, K] running sums lack up to the last, after so many of the first [T]."""
    lacking = sums.gather(1, kept[:, None] - 1)[:, 0] - sums[:, -1]
    return float(lacking.square().sum()) / 2


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    found = {name: table.tolist() for name, table in curvature(setting).items()}
    return found, {"windows": len(setting.few(TOKENS).ids), "seed": setting.seed}


QUANTITY = Quantity(
    "curvature",
    "divergence to second order that a layer's dropping brings, per rule, order, k and layer",
    _measure,
    shapes=lambda spec: dict(tables(spec)),
    least=0.0,
    needs=("norms",),
)
