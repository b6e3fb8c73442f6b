"""Figures that stand in a sentence. Another one is a function and its row in FIGURES."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from allocmoe import stats
from allocmoe.errors import AllocMoEError, shown
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report.answer import within
from allocmoe.report.groups import Group
from allocmoe.report.prose.forms import count, flag, formatted, listed, percent, percents, ratio
from allocmoe.report.prose.sources import Sources, picked
from allocmoe.report.rows import perplexity_ratio
from allocmoe.report.style import MEAN, ORIGINAL, PHASES, name
from allocmoe.stats import Interval

METRICS = ("perplexity", "divergence", "accuracy")
VERDICTS = {"better": "better", "worse": "worse", "open": "~"}


def perplexity(sources: Sources, file: str, model: str, method: str, budget: str) -> str:
    """The perplexity of a method at a budget: 5.39."""
    return f"{sources.record(file, model, method, budget).metrics['perplexity']:.2f}"


def loss(sources: Sources, file: str, model: str, method: str, budget: str, interval: str = "") -> str:
    """How far its perplexity is above the unchanged model's: 2.0 %, with `interval` 2.0 % (1.2 to 2.8)."""
    return against(sources, file, model, method, ORIGINAL, budget, interval)


def against(sources: Sources, file: str, model: str, method: str, other: str, budget: str, interval: str = "") -> str:
    """How far its perplexity is above another method's at the same budget: -1.2 %."""
    mine, theirs = (sources.record(file, model, m, budget) for m in (method, other))
    if flag(interval, "interval"):
        return percents(_less_one(perplexity_ratio(mine, theirs)[0]), True)
    return f"{percent(_ratio(mine, theirs) - 1)} %"


def losses(sources: Sources, file: str, method: str, budget: str, form: str = "each") -> str:
    """The losses of all models: 4.1 % (mini-olmoe) and 2.0 % (mini-qwen), or with `range` 2.0 to 4.1 %."""
    models = sources.models(file)
    values = [_ratio(sources.record(file, m, method, budget), sources.original(file, m)) - 1 for m in models]
    if flag("" if form == "each" else form, "range"):
        return f"{percent(min(values))} to {percent(max(values))} %"
    return listed([f"{percent(v)} % ({model})" for model, v in zip(models, values, strict=True)])


def settings(sources: Sources, file: str, form: str = "digits") -> str:
    """How many settings, of a model and a budget each, a file has."""
    return count(len(sources.settings(file)), form)


def winners(sources: Sources, file: str, metric: str, form: str = "words") -> str:
    """Which method is best in how many settings: Alloc-MoE in ten, Alloc-T in two. Metric: perplexity or accuracy."""
    found = Counter(best(sources, file, metric, model, budget) for model, budget in sources.settings(file))
    parts = [f"{listed([name(m) for m in methods])} in {count(n, form)}" for methods, n in found.most_common()]
    return ", ".join(parts)


def wins(sources: Sources, file: str, method: str, metric: str, form: str = "digits") -> str:
    """In how many settings a method is the best, or as good as the best."""
    found = [best(sources, file, metric, model, budget) for model, budget in sources.settings(file)]
    return count(sum(method in methods for methods in found), form)


def shown_as(
    sources: Sources, file: str, method: str, others: str, metric: str, verdict: str, form: str = "digits"
) -> str:
    """In how many comparisons with others (names with commas, or `all`) a method is shown better, worse, or `open`."""
    if verdict not in VERDICTS or metric not in METRICS:
        raise AllocMoEError(f"expected {', '.join(METRICS)}, then {', '.join(VERDICTS)}, not {metric} {verdict}")
    return count(sum(getattr(c, metric) == VERDICTS[verdict] for c in _compared(sources, file, method, others)), form)


def compared(sources: Sources, file: str, method: str, others: str, form: str = "digits") -> str:
    """How many comparisons with others there are."""
    return count(len(_compared(sources, file, method, others)), form)


def accuracy(sources: Sources, file: str, model: str, method: str, budget: str, task: str = MEAN) -> str:
    """The accuracy on a task, or the mean over the groups of tasks, in %: 77.8."""
    metrics = sources.record(file, model, method, budget).metrics
    key = f"group/{MEAN}" if task == MEAN else f"acc/{task}"
    if key not in metrics:
        raise AllocMoEError(f"{file} has no accuracy of {model} on {shown(task)}")
    return percent(metrics[key])


def speedup(
    sources: Sources, file: str, model: str, method: str, budget: str, phase: str, interval: str = "",
    other: str = ORIGINAL,
) -> str:  # fmt: skip
    """Speed of a phase over the original's, or another method's of the same session: 1.28x (1.13 to 1.45)."""
    value = speed_ratio(sources.group(file, model, "speed"), method, other, budget, phase)
    return ratio(value, flag("" if interval == "alone" else interval, "interval"))


def sensitivity(sources: Sources, file: str, model: str, layer: str, k: str) -> str:
    """By Algorithm 1, the perplexity with k experts in a layer (from 0) over that with all of them: 49 %."""
    found = [r for r in sources.records(file) if r.about == "profile" and r.model == model]
    if len(found) != 1:
        raise AllocMoEError(f"{file} has {len(found)} profiles of {shown(model)}, expected one")
    try:
        row = found[0].details["perplexity"][int(layer)]
        value = row[int(k) - 1] / row[-1] - 1
    except (LookupError, ValueError):
        raise AllocMoEError(f"the profile of {model} has no layer {shown(layer)} at {shown(k)}") from None
    return f"{percent(value, 0)} %"


def field(sources: Sources, file: str, index: str, path: str, form: str) -> str:
    """Anything else: a value of the record at an index of a file; its path, parts with dots between, and a format.

    metrics.perplexity two
    """
    found = sources.records(file)
    try:
        value: Any = found[int(index)].to_dict()
    except (ValueError, IndexError):
        raise AllocMoEError(f"{file} has {len(found)} records, counted from 0, and none at {shown(index)}") from None
    for part in path.split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (LookupError, ValueError, TypeError):
            raise AllocMoEError(f"record {index} of {file} has no {shown(path)}: {shown(part)} is not there") from None
    return formatted(value, form)


def methods(sources: Sources, form: str = "digits") -> str:
    """How many methods there are, the unchanged model among them."""
    return count(len(METHODS), form)


def best(sources: Sources, file: str, metric: str, model: str, budget: int) -> tuple[str, ...]:
    """The best methods of a setting that spend its budget; several where they are equal. Not the unchanged model."""
    scores = {"perplexity": lambda r: -r.metrics["perplexity"], "accuracy": lambda r: r.metrics[f"group/{MEAN}"]}
    if metric not in scores:
        raise AllocMoEError(f"unknown metric {shown(metric)}: expected {' or '.join(scores)}")
    group = sources.group(file, model)
    among = [r for r in group.records if r.budget == budget and r.method != ORIGINAL and within(r)]
    found = {r.method or "": scores[metric](r) for r in among}
    most = max(found.values())
    return tuple(m for m, value in found.items() if math.isclose(value, most, rel_tol=1e-12))


def speed_ratio(group: Group, method: str, other: str, budget: str, phase: str) -> Interval:
    """Time of another method over a method's, paired by round."""
    if phase not in PHASES:
        raise AllocMoEError(f"unknown phase {shown(phase)}: expected {' or '.join(PHASES)}")
    mine, theirs = (picked(group, m, budget) for m in (method, other))
    if mine.setup.get("session") != theirs.setup.get("session"):
        raise AllocMoEError(f"{method} and {other} were timed in different sessions: they are not paired")
    return stats.log_ratio(theirs.samples[f"{phase}_s"], mine.samples[f"{phase}_s"])


def _compared(sources: Sources, file: str, method: str, others: str) -> list[Any]:
    found = sources.comparisons(file, method)
    known = {c.other for c in found}
    wanted = known - {ORIGINAL} if others == "all" else set(others.split(","))
    if missing := sorted(wanted - known):
        raise AllocMoEError(f"{file} does not compare {shown(method)} with {shown(', '.join(missing))}")
    return [c for c in found if c.other in wanted]


def _ratio(a: Record, b: Record) -> float:
    return a.metrics["perplexity"] / b.metrics["perplexity"]


def _less_one(value: Interval) -> Interval:
    return Interval(*(v - 1 for v in value))


FIGURES: dict[str, Callable[..., str]] = {
    "accuracy": accuracy,
    "against": against,
    "compared": compared,
    "field": field,
    "loss": loss,
    "losses": losses,
    "methods": methods,
    "perplexity": perplexity,
    "sensitivity": sensitivity,
    "settings": settings,
    "shown": shown_as,
    "speedup": speedup,
    "winners": winners,
    "wins": wins,
}
