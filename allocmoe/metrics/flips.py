"""Share of the positions of held-out text at which a plan changes the most likely next token."""

from __future__ import annotations

from functools import partial

from allocmoe.metrics import distance
from allocmoe.metrics.metric import Metric, Tracked, above


def shown(figure: float) -> str:
    return f"{100 * figure:.2f} %"


METRIC = Metric(
    name="flips",
    title="share of changed most likely tokens",
    about=("quality",),
    unit="points",
    lower=True,
    noise=False,
    margin=1.0,
    minimum=0.01,
    counted="windows",
    value=partial(distance.value, "flips"),
    compare=partial(distance.compare, "flips"),
    broken=above,
    shown=shown,
    has=partial(distance.has, "flips"),
    tracked=(Tracked("flips", "% of the most likely tokens", partial(distance.tracked, "flips", 100.0)),),
    tick=".1%",
)
