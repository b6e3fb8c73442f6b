"""Tables and figures of what was measured as if decoding: quality against distinct experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from allocmoe.errors import AllocMoEError, shown
from allocmoe.records import Record
from allocmoe.report.compare import Comparison
from allocmoe.report.equal import Setting, settings
from allocmoe.report.prose.forms import count, percent, percents, table
from allocmoe.report.prose.sources import Sources
from allocmoe.report.rows import point, quality_rows
from allocmoe.report.style import BASELINE, ORIGINAL, TIMES, name
from allocmoe.spec import PAPER_BUDGETS
from allocmoe.stats import Interval

QUANTIFIED: dict[str, Callable[[Iterable[bool]], bool]] = {"better": all, "worse": any}


def distinct(sources: Sources, file: str, model: str) -> str:
    """Perplexity over the unchanged model's in %, and distinct experts per layer and step, of what was measured as if
    decoding: every method at every budget of a model."""
    budgets = sources.budgets(file, model)
    group = sources.group(file, model)
    rise = {(row.method, row.budget): row.ratio for row in quality_rows(group)}
    touched = {point(r): fmean(r.spent["distinct_per_layer"]) for r in group.records}

    def cell(method: str, budget: int) -> str:
        if (method, budget) not in touched:
            return "-"
        return f"{percent(rise[method, budget].estimate - 1, sign=True)} % at {touched[method, budget]:.1f}"

    whole = sources.original(file, model).budget or 0
    rows = [[name(m), *(cell(m, b) for b in budgets)] for m in sources.methods(file, model) if m != ORIGINAL]
    return table([f"{model}, unchanged at {touched[ORIGINAL, whole]:.1f}", *map(str, budgets)], rows)


def equal(sources: Sources, file: str, model: str, names: str) -> str:
    """Perplexity over the unchanged model's in % of some methods at the distinct experts that uniform touches at each
    of its budgets, with the speedup of the MoE layers that a published cost predicts for so many experts."""
    rows = []
    for setting in _settings(sources, file, model):
        losses = [setting.ratio(m).estimate - 1 for m in names.split(",")]
        cells = [f"{percent(v, sign=True)} %" if math.isfinite(v) else "-" for v in losses]
        rows.append(
            [str(setting.budget), f"{setting.distinct:.1f}", f"{setting.gained(setting.distinct):.2f}{TIMES}", *cells]
        )
    return table([f"{model}, budget", "distinct experts", "H100, predicted", *map(name, names.split(","))], rows)


def needed(sources: Sources, file: str, share: str, names: str) -> str:
    """The fewest distinct experts with which methods lose no more than uniform does at a share of the activations, and
    the speedup of the MoE layers that a published cost predicts for so many; a column per model."""
    columns, heads = [], []
    for model in sources.models(file):
        budget = sources.record(file, model, BASELINE, share).budget
        (setting,) = [s for s in _settings(sources, file, model) if s.budget == budget]
        loss = percent(setting.ratio(BASELINE).estimate - 1, sign=True)
        heads.append(f"{model}, {loss} % at {setting.distinct:.1f}")
        counts = [setting.needed.get(m) for m in names.split(",")]
        columns.append([f"{d:.1f}, {setting.gained(d):.2f}{TIMES}" if d else "-" for d in counts])
    rows = [[name(m), *cells] for m, *cells in zip(names.split(","), *columns, strict=True)]
    return table([f"no more loss than {name(BASELINE)} at {share}", *heads], rows)


def ahead(
    sources: Sources, file: str, method: str, names: str, which: str = "paper", metric: str = "perplexity"
) -> str:  # fmt: skip
    """A method against others at equal distinct experts, over all models, at the paper's budgets or all `other`; by
    perplexity, or by `divergence` from the unchanged model."""
    if metric not in ("perplexity", "divergence"):
        raise AllocMoEError(f"unknown metric {shown(metric)}: expected perplexity or divergence")
    rows = []
    for other in names.split(","):
        found = _compared(sources, file, method, other, which, metric)
        counts = [str(sum(getattr(c, metric) == v for _, c in found)) for v in ("better", "~", "worse")]
        rest = [(f"{model} {c.budget}", c) for model, c in found if getattr(c, metric) != "better"]
        told = [f"{at}: {_change(c.ratio) if metric == 'perplexity' else _nats(c.kl)}" for at, c in rest]
        rows.append([name(other), *counts, "; ".join(told) or "-"])
    unit = "difference of perplexity" if metric == "perplexity" else "difference of KL divergence in nats"
    return table(["against", "ahead", "nothing shown", "behind", f"not ahead at: {unit}"], rows)


def leads(
    sources: Sources, file: str, method: str, names: str, verdict: str = "better", form: str = "digits"
) -> str:  # fmt: skip
    """At how many of the paper's budgets a method is shown better than all of the others at equal distinct experts;
    with `worse`, worse than any of them."""
    if verdict not in QUANTIFIED:
        raise AllocMoEError(f"expected {' or '.join(QUANTIFIED)}, not {shown(verdict)}")
    found = [_compared(sources, file, method, other, "paper") for other in names.split(",")]
    holds = QUANTIFIED[verdict]
    return count(sum(holds(c.perplexity == verdict for _, c in others) for others in zip(*found, strict=True)), form)


def _settings(sources: Sources, file: str, model: str, loss: str = "nll") -> list[Setting]:
    found = settings(sources.group(file, model), loss)
    if not found:
        raise AllocMoEError(f"{file} has no quality of {shown(model)} as if decoding, with {BASELINE} and {ORIGINAL}")
    return found


def _compared(
    sources: Sources, file: str, method: str, other: str, which: str, metric: str = "perplexity"
) -> list[tuple[str, Comparison]]:
    """With their models, in all settings at the paper's budgets of a shape, or at all others."""
    if which not in ("paper", "other"):
        raise AllocMoEError(f"expected paper or other, not {shown(which)}")
    found = []
    for model in sources.models(file):
        papers = _papers(sources.original(file, model))
        for at in _settings(sources, file, model, "nll" if metric == "perplexity" else "kl"):
            if (at.budget in papers) == (which == "paper"):
                one = Comparison(method, other, at.budget)
                if metric == "perplexity":
                    found.append((model, replace(one, ratio=at.ratio(method, other))))
                else:
                    found.append((model, replace(one, kl=at.difference(method, other))))
    return found


def _papers(whole: Record) -> Sequence[int]:
    """The paper's budgets for the shape of the unchanged model's record; none for a shape that it does not have."""
    layers = len(whole.details["layers"])
    shape = layers, (whole.budget or 0) // layers
    return next((b for (n, _, top_k), b in PAPER_BUDGETS.items() if (n, top_k) == shape), ())


def _change(ratio: Interval) -> str:
    if not math.isfinite(ratio.estimate):
        return "not measured there"
    return percents(Interval(*(v - 1 for v in ratio)), True, sign=True)


def _nats(value: Interval) -> str:
    if not math.isfinite(value.estimate):
        return "not measured there"
    return f"{value.estimate:+.4f} ({value.low:+.4f} to {value.high:+.4f})"


EXPERTS: dict[str, Callable[..., str]] = {
    "ahead": ahead,
    "distinct": distinct,
    "equal": equal,
    "needed": needed,
}
LEADS: dict[str, Callable[..., str]] = {"leads": leads}
