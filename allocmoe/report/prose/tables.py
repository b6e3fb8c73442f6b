"""Tables of methods and what they measured. Another one is a function and its row in TABLES."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from allocmoe.errors import AllocMoEError, shown
from allocmoe.evaluate.tasks.table import EMBEDDED, PAPER
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report.answer import within
from allocmoe.report.prose.figures import VERDICTS, best, speed_ratio
from allocmoe.report.prose.forms import percent, percents, ratio, table
from allocmoe.report.prose.sources import Sources, picked
from allocmoe.report.style import MEAN, ORIGINAL, PHASES, name
from allocmoe.stats import Interval

OVER = " \N{DAGGER}"
"""Of a cell whose plan spends more than its budget, see `answer.within`."""


def methods(sources: Sources) -> str:
    """The table of methods: name, rule across layers, rule within them, what it is."""
    rows = [[f"`{n}`", f"`{row.layer_rule}`", f"`{row.token_rule}`", row.about] for n, row in METHODS.items()]
    return table(["method", "layers", "tokens", "what it is"], rows)


def datasets(sources: Sources) -> str:
    """The paper's data sets, and how each is asked."""
    rows = []
    for spec in PAPER.values():
        shots = "its own" if spec.shots is None else str(spec.shots)
        made = ", ".join(spec.asked) if spec.tasks else f"{spec.members} tasks" if spec.members != 1 else spec.name
        guess = "-" if spec.chance is None else f"{percent(spec.chance)} %"
        rows.append([f"`{spec.name}`", spec.group, made, str(spec.metric), shots, str(spec.cap or "-"), guess])
    return table(["data set", "group", "lm-eval tasks", "metric", "examples", "tokens of an answer", "guessing"], rows)


def caveats(sources: Sources) -> str:
    """What a reader must know about some methods, a line each."""
    among: dict[str, list[str]] = {}
    for method, row in METHODS.items():
        if row.caveat:
            among.setdefault(row.caveat, []).append(f"`{method}`")
    return "\n".join(f"- {', '.join(names)}: {text}" for text, names in among.items())


def quality(sources: Sources, file: str, model: str) -> str:
    """Perplexity, and mean accuracy in %, of every method at every budget of a model.

    The best of a column is bold, among those that spend the budget; what spends more is marked.
    """
    budgets = sources.budgets(file, model)
    found = {(r.method or "", r.budget or 0): r for r in sources.group(file, model).records}
    bests = {(b, m): best(sources, file, m, model, b) for b in budgets for m in ("perplexity", "accuracy")}

    def cell(method: str, budget: int) -> str:
        if (method, budget) not in found:
            return "-"
        record = found[method, budget]
        known = record.metrics
        texts = {"perplexity": f"{known['perplexity']:.2f}", "accuracy": percent(known[f"group/{MEAN}"])}
        bold = [f"**{t}**" if method in bests.get((budget, m), ()) else t for m, t in texts.items()]
        return ", ".join(bold) + _over(record)

    whole = sources.original(file, model)
    first = [f"unchanged ({whole.budget})", *[cell(ORIGINAL, whole.budget or 0)] * len(budgets)]
    rows = [[name(m), *(cell(m, b) for b in budgets)] for m in sources.methods(file, model) if m != ORIGINAL]
    return table([model, *map(str, budgets)], [first, *rows])


def _over(record: Record) -> str:
    """The mark of what spends more than its budget."""
    return "" if within(record) else OVER


def distances(sources: Sources, file: str, model: str) -> str:
    """KL divergence from the unchanged model in nats, and perplexity, of every method at every budget of a model. The
    least divergence of a column is bold, among those that spend the budget; what spends more is marked."""
    budgets = sources.budgets(file, model)
    found = {(r.method or "", r.budget or 0): r for r in sources.group(file, model).records if r.method != ORIGINAL}
    least = {b: min(r.metrics["kl"] for (_, at), r in found.items() if at == b and within(r)) for b in budgets}

    def cell(method: str, budget: int) -> str:
        if (method, budget) not in found:
            return "-"
        metrics = found[method, budget].metrics
        mark = "**" if metrics["kl"] == least[budget] else ""
        return f"{mark}{metrics['kl']:.3f}{mark}, {metrics['perplexity']:.1f}{_over(found[method, budget])}"

    whole = sources.original(file, model)
    first = [f"unchanged ({whole.budget})", *[f"0, {whole.metrics['perplexity']:.1f}"] * len(budgets)]
    rows = [[name(m), *(cell(m, b) for b in budgets)] for m in sources.methods(file, model) if m != ORIGINAL]
    return table([model, *map(str, budgets)], [first, *rows])


def verdicts(sources: Sources, file: str, method: str) -> str:
    """A method against each other one: in how many settings it is shown better, nothing is shown, or it is worse."""
    found = sources.comparisons(file, method)
    rows = []
    for other in dict.fromkeys(c.other for c in found):
        mine = [c for c in found if c.other == other]
        words = [VERDICTS[v] for v in ("better", "open", "worse")]
        cells = [str(sum(getattr(c, m) == w for c in mine)) for m in ("perplexity", "accuracy") for w in words]
        rows.append(["the unchanged model" if other == ORIGINAL else name(other), *cells])
    head = ["against", "lower perplexity", "nothing shown", "higher", "better accuracy", "nothing shown", "worse"]
    return table(head, rows)


def against(sources: Sources, file: str, method: str, other: str) -> str:
    """A method beside another one at every budget of every model: KL divergence from the unchanged model in nats,
    perplexity over the other's, and mean accuracy less the other's in points. What is shown is bold."""
    rows = []
    for model in sources.models(file):
        for c in sources.compared(file, model, method):
            if c.other != other:
                continue
            whole, mine = (sources.record(file, model, m, str(c.budget)).metrics["kl"] for m in (other, method))
            cells = [
                (f"{c.kl.estimate:+.4f} ({c.kl.low:+.4f} to {c.kl.high:+.4f})", c.divergence),
                (percents(Interval(*(v - 1 for v in c.ratio)), True, sign=True), c.perplexity),
                (percent(c.difference.estimate, sign=True), c.accuracy),
            ]
            told = [f"**{text}**" if verdict in ("better", "worse") else text for text, verdict in cells]
            rows.append([model, str(c.budget), f"{whole:.4f}", f"{mine:.4f}", *told])
    head = ["model", "budget", f"KL, {name(other)}", f"KL, {name(method)}", "difference", "perplexity", "accuracy"]
    return table(head, rows)


def seeds(sources: Sources, metric: str, names: str, *models: str) -> str:
    """Models, as file/model, beside each other, a row per budget and a column per method: perplexity over the
    unchanged model's in %, or accuracy less the unchanged model's in points."""
    if metric not in ("perplexity", "accuracy"):
        raise AllocMoEError(f"unknown metric {shown(metric)}: expected perplexity or accuracy")
    places = [place.partition("/")[::2] for place in models]

    def change(file: str, model: str, method: str, budget: int) -> str:
        mine, whole = sources.record(file, model, method, str(budget)).metrics, sources.original(file, model).metrics
        if metric == "accuracy":
            return percent(mine[f"group/{MEAN}"] - whole[f"group/{MEAN}"], sign=True)
        return percent(mine["perplexity"] / whole["perplexity"] - 1, sign=True)

    asked = names.split(",")
    rows = [
        [str(b), *(" / ".join(change(*place, m, b) for place in places) for m in asked)]
        for b in sources.budgets(*places[0])
    ]
    return table(["budget", *map(name, asked)], rows)


def tasks(sources: Sources, file: str, method: str, share: str) -> str:
    """Accuracy of each embedded task, of every model as it is and under a method at a share of its activations."""
    columns = [(m, r) for m in sources.models(file) for r in (sources.original(file, m),
                                                               sources.record(file, m, method, share))]  # fmt: skip
    rows = [
        [f"`{t}`", f"{100 * (spec.chance or 0):g}", *(percent(r.metrics[f"acc/{t}"]) for _, r in columns)]
        for t, spec in EMBEDDED.items()
    ]
    rows.append(["mean of the groups", "", *(percent(r.metrics[f"group/{MEAN}"]) for _, r in columns)])
    rows.append(["perplexity", "", *(f"{r.metrics['perplexity']:.2f}" for _, r in columns)])
    return table(["task", "chance", *(f"{model}, {r.budget}" for model, r in columns)], rows)


def speed(sources: Sources, file: str, share: str, names: str, other: str = ORIGINAL) -> str:
    """Speed of methods over another one at a share of the activations, and the distinct experts of a decode step and
    layer, on every timed shape of a file."""
    rows = []
    for group in sources.groups(file, "speed"):
        timed = {r.method for r in group.records}
        for method in [m for m in names.split(",") if m in timed]:
            values = [ratio(speed_ratio(group, method, other, share, p), True) for p in PHASES]
            counted = picked(group, method, share).spent.get("decode", {}).get("distinct_per_layer")
            experts = f"{fmean(counted):.1f}" if counted else "-"
            rows.append([group.model.split(" (")[0], name(method), *values, experts])
    if not rows:
        raise AllocMoEError(f"{file} has no speed of {shown(names)}")
    return table(["timed", "method", *PHASES, "distinct experts"], rows)


TABLES: dict[str, Callable[..., str]] = {
    "against": against,
    "caveats": caveats,
    "datasets": datasets,
    "distances": distances,
    "methods": methods,
    "quality": quality,
    "seeds": seeds,
    "speed": speed,
    "tasks": tasks,
    "verdicts": verdicts,
}
