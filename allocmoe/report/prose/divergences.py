"""Tables of records that hold the KL divergences of several plans: where layers come from, copies, kinds of rescale."""

from __future__ import annotations

from collections.abc import Callable

from allocmoe import stats
from allocmoe.records import Record
from allocmoe.report.prose.forms import table
from allocmoe.report.prose.sources import Sources
from allocmoe.report.style import TIMES, name
from allocmoe.stats import Interval

BASE = "algorithm 1"


def difference(record: Record, plan: str, other: str) -> Interval:
    """KL divergence of one plan of a record less another's, nats a token, paired by window."""
    ours, theirs = (record.samples[f"kl/{p}"] for p in (plan, other))
    return stats.mean([a - b for a, b in zip(ours, theirs, strict=True)], record.samples["window_tokens"])


def verdict(found: Interval) -> int:
    """-1 if shown to be lower, 1 if shown to be higher, 0 if neither is shown."""
    return 0 if not found.excludes(0) else -1 if found.estimate < 0 else 1


def _marked(text: str, shown: int) -> str:
    return {-1: f"**{text}**", 0: text, 1: f"{text} (worse)"}[shown]


def profiles(sources: Sources, file: str) -> str:
    """What layers are allocated from: how many times as long Algorithm 1 takes, and the KL divergence of the plans from
    the unchanged model at every budget, of each model of a file; with what is shown against Algorithm 1's plan."""
    rows = []
    for r in sources.records(file):
        budgets = _budgets(r)
        for source in r.setup["compared"]:
            cost = f"{r.metrics[f'over/{source}']:.1f}{TIMES}" if source != "the mean" else "-"
            shown = [verdict(difference(r, f"{source}/{b}", f"{BASE}/{b}")) for b in budgets]
            values = [f"{r.metrics[f'kl/{source}/{b}']:.4f}" for b in budgets]
            cells = [f"{_marked(v, s)} ({b})" for v, s, b in zip(values, shown, budgets, strict=True)]
            counts = "-" if source == BASE else f"{shown.count(-1)}, {shown.count(1)}"
            rows.append([r.model, source, cost, ", ".join(cells), counts])
    head = ["model", "layers from", "Algorithm 1 takes", "KL divergence in nats (at a budget of)", "lower, higher at"]
    return table(head, rows)


def copies(sources: Sources, file: str) -> str:
    """KL divergence in nats of a rounded or pruned copy from itself as it is, under plans of the original and under
    plans from a profile of its own, and what the latter gives; of methods that need a profile."""
    rows = []
    for r in sources.records(file):
        for plan in (n.removeprefix("kl/old/") for n in r.metrics if n.startswith("kl/old/")):
            if r.samples[f"kl/old/{plan}"] == r.samples[f"kl/new/{plan}"]:
                continue  # no profile decides such a plan
            method, budget = plan.split("/")
            values = [f"{r.metrics[f'kl/{how}/{plan}']:.4f}" for how in ("old", "new")]
            gained = _change(difference(r, f"new/{plan}", f"old/{plan}"))
            rows.append([r.model, r.setup["copy"], name(method), budget, *values, gained])
    head = ["model", "copy", "method", "budget", "KL, the original's plan", "KL, a plan of its own", "difference"]
    return table(head, rows)


def channels(sources: Sources, file: str) -> str:
    """KL divergence in nats of Alloc-C without rescale, with a factor a layer and with one a channel."""
    rows = []
    for r in sources.records(file):
        for b in _budgets(r):
            values = [f"{r.metrics[f'kl/{kind}/{b}']:.4f}" for kind in ("none", "layer", "channel")]
            rows.append([r.model, str(b), *values, *(
                _change(difference(r, f"{a}/{b}", f"{c}/{b}")) for a, c in (("layer", "none"), ("channel", "layer"))
            )])  # fmt: skip
    head = ["model", "budget", "no rescale", "one factor", "a factor a channel", "one less none", "channels less one"]
    return table(head, rows)


def _budgets(record: Record) -> list[int]:
    return sorted({int(n.rsplit("/", 1)[1]) for n in record.metrics if n.startswith("kl/")}, reverse=True)


def _change(found: Interval) -> str:
    estimate, low, high = (f"{v:+.4f}" if abs(v) >= 5e-5 else "0.0000" for v in found)
    text = f"{estimate} ({low} to {high})"
    return f"**{text}**" if verdict(found) else text


DIVERGENCES: dict[str, Callable[..., str]] = {"channels": channels, "copies": copies, "profiles": profiles}
