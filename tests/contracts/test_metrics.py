"""Every metric in the table keeps its promises, and has an oracle; an unknown name raises wherever it is asked for."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from scipy.special import rel_entr
from statsmodels.stats import multitest  # noqa: F401  slow to import, so not in a test

import allocmoe
from allocmoe import gate, history, metrics
from allocmoe.cli.history import minimum
from allocmoe.engines.head import window_scores
from allocmoe.errors import AllocMoEError
from allocmoe.gate import pairing, show
from allocmoe.gate.pairing import Key
from allocmoe.measure.tracked import values
from allocmoe.metrics import METRICS, Measured
from allocmoe.metrics.metric import UNITS, Metric
from allocmoe.records import Record
from allocmoe.report import timeline
from tests.gate.measured import NAME, changed, measured, row, slower, worse
from tests.history.past import past

PACKAGE = Path(allocmoe.__file__).parent


def _items(record: Record) -> float:
    """Of the made-up records: two tasks, no groups."""
    return float(np.mean([np.mean(task["correct"]) for task in record.samples["tasks"].values()]))


def _time(phase: str) -> Callable[[Record, Record | None], float]:
    def value(record: Record, original: Record | None) -> float:
        assert original
        name = f"{phase}_s"
        return float(np.exp(np.median(np.log(record.samples[name]) - np.log(original.samples[name]))))

    return value


def _logits(budget: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of 32 windows of 9 tokens and a vocabulary of 12: the unchanged model's, and a plan's, which noise hardly moves."""
    generator = torch.Generator().manual_seed(budget)
    original = torch.randn(32, 9, 12, generator=generator)
    planned = original + (128 / budget - 1) * 0.3 * torch.randn(32, 9, 12, generator=generator)
    return original, planned + 1e-4 * torch.randn(32, 9, 12, generator=torch.Generator().manual_seed(seed))


def _told(seed: int) -> list[Record]:
    """A measurement whose quality records have the distance too; the seed goes along for the oracle."""
    found, ids = [], torch.zeros(32, 9, dtype=torch.long)
    head = torch.nn.Identity()
    head.weight = torch.zeros(12, 12)
    for r in measured(seed):
        if r.about == "quality":
            original, planned = _logits(r.budget or 0, seed)
            scores = window_scores(head, planned, original, ids)
            each = {"kl": scores.kl.mean(1).tolist(), "flips": scores.flips.double().mean(1).tolist()}
            means = {name: float(np.mean(values)) for name, values in each.items()}
            r = replace(r, samples=r.samples | each, metrics=r.metrics | means, details={"logits": seed})
        found.append(r)
    return found


def _distance(of: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Record, Record | None], float]:
    """The mean of something over all predicted positions, one by one, in float64."""

    def value(record: Record, _original: Record | None) -> float:
        sides = (x[:, :-1].flatten(0, 1).numpy() for x in _logits(record.budget or 0, record.details["logits"]))
        pairs = [
            [np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum() for x in two] for two in zip(*sides)
        ]
        return math.fsum(of(p, q) for p, q in pairs) / len(pairs)

    return value


def _further(name: str, by: float) -> Callable[[list[Record]], list[Record]]:
    return lambda new: worse(
        new, samples=lambda s: s | {name: [x + by for x in s[name]]}, metrics=lambda m: m | {name: m[name] + by}
    )


# metric -> its value worked out another way, and a new measurement that is worse in it by this many of its unit
ORACLES: dict[str, tuple[Callable[[Record, Record | None], float], Callable[[list[Record]], list[Record]], float]] = {
    "perplexity": (
        lambda r, _: float(scipy_stats.gmean(np.exp(r.samples["nll"]))),
        lambda new: worse(
            new, samples=lambda s: s | {"nll": [x + math.log(1.1) for x in s["nll"]]},
            metrics=lambda m: m | {"perplexity": 1.1 * m["perplexity"]},
        ),
        10.0,
    ),
    "kl": (_distance(lambda p, q: math.fsum(rel_entr(p, q))), _further("kl", 0.05), 0.05),
    "flips": (_distance(lambda p, q: p.argmax() != q.argmax()), _further("flips", 0.03), 3.0),
    "accuracy": (
        lambda r, _: _items(r),
        lambda new: worse(new, samples=lambda s: s | {"tasks": {
            name: task | {"correct": [c * (i >= 60) for i, c in enumerate(task["correct"])]}
            for name, task in s["tasks"].items()
        }}),
        -1.0,  # what the first 60 items of each task had right
    ),
    "activations": (
        lambda r, _: r.spent["per_token"], lambda new: worse(new, spent=lambda s: {"per_token": 1.1 * s["per_token"]}),
        10.0,
    ),
    "prefill": (_time("prefill"), lambda new: slower(new, 1.1, "alloc-moe"), 10.0),
    "decode": (_time("decode"), lambda new: slower(new, 1.1, "alloc-moe"), 10.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def sides() -> tuple[list[Record], list[Record]]:
    return _told(1), _told(0)


def one(metric: Metric, found: list[Record]) -> Measured:
    mine = [r for r in found if r.about == metric.about[0]]
    record = next(r for r in mine if r.method == "alloc-moe")
    session = record.setup.get("session")
    original = next(r for r in mine if r.method == "original" and r.setup.get("session") == session)
    return Measured(record, original if metric.relative else None)


def test_every_metric_has_an_oracle():
    assert set(ORACLES) == set(METRICS), "a metric without an oracle, or an oracle without a metric"
    assert list(METRICS) == [m.name for m in METRICS.values()]


@pytest.mark.parametrize("name", METRICS)
def test_its_value_is_the_oracles(name: str, sides):
    metric = METRICS[name]
    measurement = one(metric, sides[0])
    assert metric.told(measurement.record)
    assert metrics.value(name, [measurement]) == pytest.approx(ORACLES[name][0](*measurement), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_worsening_is_caught_in_its_row_and_told_in_its_unit(name: str, sides):
    new, old = sides
    _, spoil, expected = ORACLES[name]
    found = gate.compare(spoil(new), old)
    caught, quiet = row(found, f"{NAME}/{name}"), row(gate.compare(new, old), f"{NAME}/{name}")
    if expected < 0:
        tasks = one(METRICS[name], old).record.samples["tasks"]
        expected = 100 * float(np.mean([np.sum(t["correct"][:60]) / len(t["correct"]) for t in tasks.values()]))
    assert caught.verdict == gate.REGRESSED
    assert caught.change == pytest.approx(expected, rel=0.1)
    assert quiet.verdict == gate.PASS
    assert quiet.margin == METRICS[name].margin
    assert f"{METRICS[name].unit}" in caught.reason


@pytest.mark.parametrize("name", METRICS)
def test_against_itself_nothing_changed(name: str, sides):
    metric = METRICS[name]
    measurements = [one(metric, _told(seed)) for seed in (0, 1, 2)]
    shift = metric.compare(measurements, measurements, 0.05)
    assert shift.estimate == 0
    assert math.isnan(shift.p) == (not metric.counted)
    assert metric.change(metric.limit(metric.margin)) == pytest.approx(metric.margin)


@pytest.mark.parametrize("name", METRICS)
def test_its_floor_breaks_on_the_worse_side_alone(name: str, sides):
    metric = METRICS[name]
    figure = metric.figure(metric.value([one(metric, sides[0])]))
    spoiled = (
        metric.figure(metric.value([one(metric, ORACLES[name][1](sides[0]))])) if name != "perplexity" else figure * 1.1
    )
    assert metric.broken(figure, figure) == ""
    assert "floor" in metric.broken(spoiled, figure)
    assert metric.broken(figure, spoiled) == ""
    assert metric.shown(figure)


@pytest.mark.parametrize("name", METRICS)
def test_the_history_follows_it_in_its_direction(name: str):
    metric, template = METRICS[name], history.series(past())[0]
    rng = np.random.default_rng(0)
    levels = [1.0 + (3 * metric.minimum) * (p.commit.order >= 8) for p in template.points]
    noise = np.exp(rng.normal(0, 1e-4, len(levels))) if metric.noise else np.ones(len(levels))
    points = tuple(replace(p, samples=(v,)) for p, v in zip(template.points, levels * noise, strict=True))
    (change,) = history.changes([replace(template, metric=name, points=points)])
    assert (change.commit.order, change.direction) == (8, "worse" if metric.lower else "better")
    assert metric.title in history.words(change)
    assert history.changes([replace(template, metric=name, points=points)], {name: 4 * metric.minimum}) == []


@pytest.mark.parametrize("name", METRICS)
def test_what_asv_tracks_is_lower_where_it_is_better(name: str, sides):
    metric = METRICS[name]
    before, after = one(metric, sides[0]), one(metric, ORACLES[name][1](sides[0]))
    for tracked in metric.tracked:
        if tracked.name not in ("distinct_experts",):  # made-up records have none
            assert np.mean(tracked.samples(after)) > np.mean(tracked.samples(before))
        assert tracked.unit
    assert metric.tracked


def test_tracked_names_are_distinct():
    names = [t.name for metric in METRICS.values() for t in metric.tracked]
    assert len(set(names)) == len(names)


UNKNOWN = "speed" + "x" * 100_000
ASKED = {
    "get": lambda new, old: metrics.get(UNKNOWN),
    "value": lambda new, old: metrics.value(UNKNOWN, [Measured(new[0])]),
    "order": lambda new, old: Key("m", "uniform", 64, UNKNOWN).order,
    "margins": lambda new, old: gate.compare(new, old, {UNKNOWN: 1.0}),
    "floors": lambda new, old: gate.compare(new, old, floors={f"m/uniform/64/{UNKNOWN}": 1.0}),
    "evidence": lambda new, old: pairing.evidence(Key("m", "uniform", 64, UNKNOWN), new, old, 0.05, False),
    "a row": lambda new, old: show.line(gate.Row(Key("m", "uniform", 64, UNKNOWN), 1.0, 1.0)),
    "level": lambda new, old: history.level(UNKNOWN, []),
    "smallest change": lambda new, old: history.changes([], {UNKNOWN: 1.0}),
    "changes": lambda new, old: history.changes([replace(history.series(past(3))[0], metric=UNKNOWN)]),
    "title": lambda new, old: history.title(replace(history.series(past(3))[0], metric=UNKNOWN)),
    "timeline": lambda new, old: timeline.timeline([replace(history.series(past(3))[0], metric=UNKNOWN)], []),
    "--min-change": lambda new, old: minimum([f"{UNKNOWN}=1"]),
}


@pytest.mark.parametrize("where", ASKED)
def test_an_unknown_name_raises_in_one_short_line(where: str, sides):
    with pytest.raises(AllocMoEError, match="expected one of perplexity, kl, flips, accuracy") as caught:
        ASKED[where](*sides)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_an_unknown_unit_raises():
    with pytest.raises(AllocMoEError, match=f"expected one of {', '.join(UNITS)}"):
        replace(METRICS["decode"], unit="furlongs")


def test_a_new_metric_is_one_row(monkeypatch: pytest.MonkeyPatch, sides):
    """The gate, the history, asv and the figures take it from the table."""
    windows = replace(
        METRICS["activations"], name="windows", title="windows read", about=("quality",), apart=False,
        value=lambda found: float(len(found[-1].record.samples["nll"])), has=lambda r: "nll" in r.samples,
        tracked=(METRICS["perplexity"].tracked[0]._replace(name="windows", samples=lambda found: [1.0]),),
    )  # fmt: skip
    windows = replace(windows, compare=lambda new, old, alpha: replace(
        METRICS["activations"].compare(new, old, alpha),
        **dict.fromkeys(("estimate", "low", "high"), math.log(windows.value(new) / windows.value(old))),
    ))  # fmt: skip
    monkeypatch.setitem(METRICS, "windows", windows)
    new, old = sides
    longer = worse(new, samples=lambda s: s | {"nll": s["nll"] * 2})
    assert row(gate.compare(longer, old), f"{NAME}/windows").verdict == gate.REGRESSED
    assert row(gate.compare(new, old, floors={f"{NAME}/windows": 9.0}), f"{NAME}/windows").verdict == gate.REGRESSED
    commits = [changed(new, "quality", environment={"commit": {"hash": f"{n}" * 40, "date": f"2026-01-0{n}"}})
               for n in (1, 2)]  # fmt: skip
    found = [s for s in history.series([r for side in commits for r in side if r.about == "quality"])
             if s.metric == "windows"]  # fmt: skip
    assert [s.values for s in found] == [[32, 32]] * 3
    assert "Windows read" in [title for title, _, _ in timeline.blocks([r for s in commits for r in s])]
    shared = [replace(r, details=r.details | {"share": 0.5}) for r in new if r.about == "quality"]
    assert {key[0] for key, _ in values(shared)} == {"perplexity", "kl", "flips", "task_loss", "activations", "windows"}


def test_no_other_place_lists_metrics():
    """Of the rooms that ask the table, none names two metrics in one literal."""
    for path in [*PACKAGE.glob("gate/*.py"), *PACKAGE.glob("history/*.py"), PACKAGE / "report/timeline.py",
                 PACKAGE / "measure/tracked.py", PACKAGE / "cli/gating.py", PACKAGE / "cli/history.py"]:  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and not isinstance(node.value, str):
                continue
            strings = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)} & set(METRICS)
            literal = isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict | ast.Compare)
            assert not (literal and strings), f"{path.name}:{node.lineno} names {strings}"
