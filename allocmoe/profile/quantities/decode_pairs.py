"""What decode loses and keeps per layer for k0 AND K', where a pair costs something beside the expert that it reads.

As `decode`, with refill up to fewer than K pairs: K (K - 1) / 2 more options a layer, which take K / 2 times as long as
`decode` itself. So it is a quantity of its own, measured only where somebody asks for it. How many distinct experts a
pass touches does not depend on K'.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allocmoe.profile.quantities.decode import batch_of, in_means, summed
from allocmoe.profile.quantities.quantity import Quantity, Setting


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    """Tables [L][K][K] by [k0 - 1][K' - 1]. A token's own base pairs always stay, so a K' below k0 counts as k0; where
    K' = K, they are those of `decode`."""
    spec, known = setting.engine.spec, setting.known["decode"]
    options = [(k, pairs) for k in range(1, spec.top_k) for pairs in range(k, spec.top_k)]
    sums, text = summed(setting, options, "decode_pairs")
    points = np.ones((spec.layers, spec.top_k, spec.top_k, 3))
    for layer in range(spec.layers):
        for k in range(1, spec.top_k):
            points[layer, k - 1, :-1] = [sums[layer, (k, max(k, pairs))] for pairs in range(1, spec.top_k)]
    means, numbers = in_means(points, batch_of(setting), text)
    loss, pairs = means[..., 0], means[..., 2]
    for table, whole in ((loss, known["loss"]), (pairs, known["pairs"])):
        table[..., -1] = whole
        table[:, -1, :] = np.array(whole)[:, -1:]
    value = {"loss": loss.tolist(), "pairs": pairs.tolist(), **numbers}
    return value, {"evaluations": spec.layers * len(options), **text}


QUANTITY = Quantity(
    "decode_pairs",
    "loss and pairs per layer, k0 and K', refilled, in batches as at decode",
    _measure,
    shapes=lambda spec: {
        **dict.fromkeys(("loss", "pairs"), (spec.layers, spec.top_k, spec.top_k)),
        **dict.fromkeys(("batch", "passes"), ()),
    },
    positive=True,
    needs=("decode",),
    current=lambda setting, value: value["batch"] == batch_of(setting) and not setting.naive,
)
