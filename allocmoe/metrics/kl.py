"""KL divergence from the unchanged model on held-out text: mean over predicted tokens of KL(p_original || p_plan)."""

from __future__ import annotations

from functools import partial

from allocmoe.metrics import distance
from allocmoe.metrics.metric import Metric, Tracked, above

METRIC = Metric(
    name="kl",
    title="KL divergence from the original",
    about=("quality",),
    unit="nats",
    lower=True,
    noise=False,
    margin=0.01,
    minimum=0.01,
    counted="windows",
    value=partial(distance.value, "kl"),
    compare=partial(distance.compare, "kl"),
    broken=above,
    shown="{:.4f}".format,
    has=partial(distance.has, "kl"),
    tracked=(Tracked("kl", "nats from the original", partial(distance.tracked, "kl", 1.0)),),
)
