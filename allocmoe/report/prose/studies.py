"""Tables of the project's own studies: how often gate and history err, dense models, the embedded models' training."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from allocmoe import mini
from allocmoe.errors import AllocMoEError, shown
from allocmoe.records import Record
from allocmoe.report.prose.forms import formatted, percent, ratio, table
from allocmoe.report.prose.sources import Sources
from allocmoe.report.rows import perplexity_ratio
from allocmoe.report.style import MEAN

DETECTORS = ("asv", "E-divisive", "E-divisive of commits", "permuted CUSUM", "largest t")
HISTORIES = {
    "no change": "no change: wrong",
    "no change, half the variance shared within a commit": "the same, half the variance shared within a commit",
    "3 %": "3 %: missed",
    "5 %": "5 %: missed",
    "10 %": "10 %: missed",
    "10 %, taken back 5 commits later": "10 %, taken back 5 commits later: missed",
    "no noise, 0.5 % at one of the last two commits": "no noise, 0.5 % at one of the last two commits: missed",
}
"""Kinds of simulated histories, and what a row says of them."""


def gate(sources: Sources, *indices: str) -> str:
    """How often the gate errs: a row per pool of sessions and number of them, percent of gates."""
    rows = []
    for record in _picked(sources, "gate", indices):
        slower = percent(record.setup["slowdown"] - 1, 0)
        for sessions in record.setup["sessions"]:
            shares = [
                percent(record.metrics[f"{what}/{sessions}/{verdict}"])
                for what, verdict in (
                    ("nothing", "regressed"), ("nothing", "unmeasured"), ("slower", "regressed"),
                    ("slower", "unmeasured"), ("less_accurate", "regressed"),
                )
            ]  # fmt: skip
            margin = f"{record.setup['margins']['decode']:g} %"
            rows.append([str(record.details["rounds"]), str(sessions), margin, f"{slower} %", *shares])
    head = [
        "rounds a session", "sessions a side", "margin", "slower by", "nothing changed: regressed",
        "could not measure", "slower: regressed", "could not measure", "1 point less accurate: regressed",
    ]  # fmt: skip
    return table(head, rows)


def detectors(sources: Sources) -> str:
    """Detectors of changes in a history: wrongly named commits in 100 series, and changes missed in %, by length."""
    (record,) = _picked(sources, "history", ("0",))
    found = {(row["kind"], row["detector"], row["length"]): row for row in record.samples["rows"]}
    lengths = sorted({length for _, _, length in found})

    def cell(kind: str, detector: str) -> str:
        what = "false_alarms" if kind.startswith("no change") else "missed"
        values = [found[kind, detector, length][what] for length in lengths if (kind, detector, length) in found]
        return " / ".join(f"{100 * v:.{0 if what == 'missed' or v >= 0.1 or not v else 1}f}" for v in values)

    rows = [[words, *(cell(kind, detector) for detector in DETECTORS)] for kind, words in HISTORIES.items()]
    return table(["commits: " + " / ".join(map(str, lengths)), *DETECTORS], rows)


def faults(sources: Sources) -> str:
    """What gate and history said of faults that were put in on purpose."""
    (record,) = _picked(sources, "injected", ("0",))
    rows = []
    for fault, found in record.details.items():
        alone = found["named"] == [found["faulty"]]
        named = "the faulty one" if alone else f"{len(found['named'])}, not the faulty one alone"
        rows.append([fault.replace("-", " "), str(found["exit"]), named])
    return table(["fault", "exit code of the gate", "commits that the history names"], rows)


def dense(sources: Sources) -> str:
    """The first model of `dense` beside the others: perplexity of two texts with its ratio, accuracy."""
    records = sources.records("dense")
    texts = list(dict.fromkeys(r.setup["text"] for r in records))
    found = {(r.model, r.setup["text"]): r for r in records}
    models = list(dict.fromkeys(r.model for r in records))
    rows = []
    for model in models:
        mine = [found[model, text] for text in texts]
        cells = [f"{r.metrics['perplexity']:.2f}" for r in mine]
        if model != models[0]:
            ratios = [perplexity_ratio(r, found[models[0], r.setup["text"]])[0] for r in mine]
            cells = [f"{c}: {ratio(v, True)}" for c, v in zip(cells, ratios, strict=True)]
        trained = mine[0].details["trained"]
        time = f"{trained['minutes']:.0f} min, {formatted(trained['tokens'], 'millions')} tokens"
        size = formatted(mine[0].details["parameters"], "millions")
        rows.append([f"`{model}`", size, time, *cells, percent(mine[0].metrics[f"group/{MEAN}"])])
    return table(["model", "parameters", "trained on", "generated text", "real text", "accuracy"], rows)


def training(sources: Sources) -> str:
    """How the embedded models were trained, by the last line of their logs."""
    rows = []
    for model in mini.shipped():
        text = (mini.resolve(model) / "training-log.jsonl").read_text("utf-8")
        last: dict[str, Any] = json.loads(text.splitlines()[-1])
        losses = ", ".join(f"{last[f'val_{part}']:.3f}" for part in ("text", "exercises", "answers"))
        size = f"{last['minutes']:.0f}", f"{last['step']:,}", formatted(last["tokens"], "millions")
        rows.append([f"`{model}`", *size, losses])
    return table(["model", "minutes", "steps", "tokens", "loss on held-out text, exercises, answers (nats)"], rows)


def curve(sources: Sources, file: str) -> str:
    """How a distilled model came to its dense parent: perplexity of held-out text at every point of its training."""
    trained = [r for r in sources.records(file) if r.about == "training"]
    if not trained:
        raise AllocMoEError(f"{file} has no training")
    rows = [
        [
            str(p["stage"]),
            f"{p['minutes']:.0f}" if "minutes" in p else "-",
            f"{p.get('tokens', 0):,}",
            f"{p['valid']:.2f}",
        ]
        for p in trained[-1].details["curve"]
    ]
    return table(["", "minutes", "tokens", "perplexity of held-out text"], rows)


def _picked(sources: Sources, file: str, indices: tuple[str, ...]) -> list[Record]:
    found = sources.records(file)
    try:
        return [found[int(index)] for index in indices]
    except (ValueError, IndexError):
        raise AllocMoEError(
            f"{file} has {len(found)} records, counted from 0, not {shown(' '.join(indices))}"
        ) from None


STUDIES: dict[str, Callable[..., str]] = {
    "curve": curve,
    "dense": dense,
    "detectors": detectors,
    "faults": faults,
    "gate": gate,
    "training": training,
}
