"""Tables and figures of the analyses, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from allocmoe.analyses import paper
from allocmoe.analyses.ablation import METHODS as APART
from allocmoe.analyses.batch import NAME as BATCH
from allocmoe.analyses.layer_rules import METHODS as LAYERS
from allocmoe.analyses.neighbours import NAME as NEIGHBOURS
from allocmoe.analyses.token_rules import METHODS as TOKENS
from allocmoe.errors import AllocMoEError, shown
from allocmoe.records import Record, views
from allocmoe.report import by_budget
from allocmoe.report.groups import groups
from allocmoe.report.prose.forms import formatted, percent, table
from allocmoe.report.prose.sources import Sources, at
from allocmoe.report.results import Quality, Results
from allocmoe.report.sections import batch as batch_section
from allocmoe.report.sections import entropy as entropy_section
from allocmoe.report.sections import load as load_section
from allocmoe.report.studied import Study, compared, named, tabled
from allocmoe.report.style import ORIGINAL, name, rank
from allocmoe.report.words import DASH

COMPARED = {"ablation": APART, "layer_rules": LAYERS, "token_rules": TOKENS}
"""Analyses whose rows are methods."""
TABLED = {"k_base": "k_base", "calibration": "calibration"}
"""Analyses that wrote a table: the table of the paper's numbers."""


def study(sources: Sources, analysis: str, model: str, files: str) -> str:
    """An analysis of a model with a row per variant: perplexity over the unchanged model's in % and accuracy less its
    in points, at every budget, then the paper's mean accuracies. Files are named with commas between."""
    found = _results(sources, files)
    if analysis in COMPARED:
        among: Iterable[Study] = compared(found, COMPARED[analysis])
    elif analysis in TABLED:
        among = tabled(found, analysis)
    else:
        raise AllocMoEError(f"unknown study {shown(analysis)}: expected one of {', '.join([*COMPARED, *TABLED])}")
    chosen = [one for one in among if one.original.model == model]
    if len(chosen) != 1:
        raise AllocMoEError(f"{files} have {len(chosen)} tables of {shown(analysis)} for {shown(model)}, expected one")
    facts = by_budget.facts(chosen[0], "", "", TABLED.get(analysis, "ablation"), "")
    rows = [
        [row["label"], *(f"**{cell}**" if best else cell for cell, best in row["cells"]), *row["theirs"]]
        for row in facts["rows"]
    ]
    head = [f"{model}: {analysis}", *map(str, facts["budgets"]), *(f"paper, {b}" for b in facts["theirs"])]
    return table(head, [[cell.replace("%", " %") for cell in row] for row in _without_dashes(rows)])


def load(sources: Sources, file: str) -> str:
    """How the load of experts changes under every plan of an analysis, from the least to the largest of its layers."""
    rows = [
        [block.title.split(": ", 1)[1].split(" ")[0], name(row["method"]), str(row["budget"]), *row["cells"]]
        for block in load_section.blocks(_results(sources, file))
        if block.facts["what"] == "table"
        for row in block.facts["rows"]
    ]
    theirs = [paper.LOAD[statistic] for statistic in ("spearman", "entropy_change", "divergence")]
    rows.append([f"the paper's: {paper.MODELS[paper.DEEPSEEK]}", "Alloc-MoE", "78", *theirs])
    head = ["model", "plan", "budget", "rank correlation", "change of normalised entropy", "Jensen-Shannon, bits"]
    return table(head, _without_dashes(rows))


def kept(sources: Sources, file: str) -> str:
    """Correlation of the experts that tokens keep with their routing entropy, and mean experts in both halves of the
    depth."""
    rows = [
        [block.title.split(": ", 1)[1].split(" ")[0], name(row["method"]), str(row["budget"]), *row["cells"]]
        for block in entropy_section.blocks(_results(sources, file))
        for row in block.facts["rows"]
    ]
    theirs = [paper.CORRELATION, DASH, DASH, DASH]
    rows.append([f"the paper's: {paper.MODELS[paper.DEEPSEEK]}", "Alloc-T", "78", DASH, *theirs, "more", "fewer"])
    head = [
        "model", "plan", "budget", "layers that vary", "Pearson's, all experts", "Spearman's", "Pearson's, candidates",
        "Spearman's", "experts, first half of layers", "second half",
    ]  # fmt: skip
    return table(head, _without_dashes(rows))


def mixed(sources: Sources, file: str) -> str:
    """What happens to a window's loss when other windows share its batch: perplexity of the orders, and how far a
    window moves, in nats."""
    rows = []
    for block in batch_section.blocks(_results(sources, file)):
        model = block.title.split(": ", 1)[1].split(" ")[0]
        rows += [[model, name(row["method"]), *row["cells"]] for row in block.facts["rows"]]
    return table(["model", "plan", "perplexity, lowest and highest", "a window's loss moves by", "at most"], rows)


def sizes(sources: Sources, file: str) -> str:
    """Perplexity over the unchanged model's, by how many windows share a pass."""
    found = [r for r in sources.records(file) if named(r) == BATCH and r.setup["analysis"]["order"] == 0]
    values = {(r.model, r.method or "", r.setup["text_batch"]): r.metrics["perplexity"] for r in found}
    counts = sorted({count for *_, count in values})
    plans = dict.fromkeys((model, method) for model, method, _ in values if method != ORIGINAL)

    def cell(model: str, method: str, count: int) -> str:
        if (model, method, count) not in values:
            return "-"
        return f"{percent(values[model, method, count] / values[model, ORIGINAL, count] - 1, 2, True)} %"

    rows = [[model, name(method), *(cell(model, method, c) for c in counts)] for model, method in plans]
    return table(["model", "plan", *map(str, counts)], rows)


def strangers(sources: Sources, file: str) -> str:
    """How far neighbours that are chosen for it move a request's predictions, of every plan and model: mean KL
    divergence in nats and the share of most likely tokens that change, of the kind of neighbours that moves more."""
    found = sorted((r for r in sources.records(file) if named(r) == NEIGHBOURS), key=lambda r: rank(r.method or ""))
    models, methods = dict.fromkeys(r.model for r in found), dict.fromkeys(r.method or "" for r in found)
    worst = {(r.model, r.method or ""): r for r in sorted(found, key=lambda r: r.metrics["kl"])}

    def cell(record: Record | None) -> str:
        return f"{record.metrics['kl']:.2g}, {percent(record.metrics['flips'])} %" if record else "-"

    rows = [[name(method), *(cell(worst.get((model, method))) for model in models)] for method in methods]
    return table(["plan", *models], rows)


def analysed(
    sources: Sources, file: str, analysis: str, model: str, method: str, budget: str, metric: str, form: str
) -> str:
    """A metric of an analysis' record of a plan: load mini-olmoe alloc-moe 1/2 spearman_least two."""
    found = [
        r for r in sources.records(file)
        if named(r) == analysis and (r.model, r.method) == (model, method) and at(r, budget)
    ]  # fmt: skip
    metrics = views.latest(found).metrics if found else {}
    if metric not in metrics:
        raise AllocMoEError(f"{file} has no {shown(metric)} of {shown(analysis)} for {model}, {method} at {budget}")
    return formatted(metrics[metric], form)


def _results(sources: Sources, files: str) -> Results:
    """Records of files as sections read them, without the verdicts, which take long and are not needed."""
    found = sources.records(files)
    return Results(found, [Quality(g, [], []) for g in groups(found, "quality")], [], [])


def _without_dashes(rows: list[list[str]]) -> list[list[str]]:
    """As other tables write what is missing."""
    return [["-" if cell == DASH else cell for cell in row] for row in rows]


ANALYSED: dict[str, Callable[..., Any]] = {
    "study": study,
    "load": load,
    "kept": kept,
    "mixed": mixed,
    "sizes": sizes,
    "strangers": strangers,
}
VALUES: dict[str, Callable[..., str]] = {"analysed": analysed}
