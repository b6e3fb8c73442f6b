"""The cost of a decode step: least squares against numpy's, plans that move D and P apart, records that come back."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocmoe import records
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.measure import fit as fitting
from allocmoe.measure.fit import HELD_OUT, Point, designed, errors, fitted, held_out
from allocmoe.measure.protocol import Protocol
from allocmoe.records import Record
from allocmoe.records.step import StepCost
from tests.conftest import tiny

KNOWN = StepCost({4: 9.0, 8: 12.0}, {"refill": 1.5, "alloc_t": 0.7}, 0.25, 0.03)


def made(cost: StepCost, noise: float = 0.0, seed: int = 0) -> list[Point]:
    rng = random.Random(seed)
    found = []
    for tokens in cost.step:
        for rule in ("top_k", *cost.rules):
            for _ in range(6):
                distinct, pairs = rng.uniform(20, 200), rng.uniform(50, 900)
                ms = cost.of(tokens, rule, distinct, pairs) * (1 + rng.gauss(0, noise))
                found.append(Point(tokens, rule, distinct, pairs, ms, "x"))
    return found


def by_numpy(points: list[Point], left_out: int | None = None) -> np.ndarray:
    """Weighted least squares from the definition; a column may be left out."""
    columns = [
        [p.distinct, p.pairs, p.tokens == 4, p.tokens == 8, p.rule == "refill", p.rule == "alloc_t"] for p in points
    ]
    table = np.array(columns, dtype=float) / np.array([[p.ms] for p in points])
    if left_out is not None:
        table = np.delete(table, left_out, axis=1)
    return np.linalg.lstsq(table, np.ones(len(points)), rcond=None)[0]


def test_exact_points_give_the_cost_back() -> None:
    found, intervals = fitted(made(KNOWN))
    assert found.metrics() == pytest.approx(KNOWN.metrics())
    for name, (low, high) in intervals.items():
        assert low - 1e-9 <= KNOWN.metrics()[name] <= high + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_it_is_weighted_least_squares(seed: int) -> None:
    points = made(KNOWN, 0.02, seed)
    found, _ = fitted(points)
    names = ["distinct_ms", "pair_ms", "step_ms/4", "step_ms/8", "rule_ms/refill", "rule_ms/alloc_t"]
    assert [found.metrics()[n] for n in names] == pytest.approx(by_numpy(points).tolist())


def test_intervals_cover_as_often_as_they_say() -> None:
    inside = [low <= 0.25 <= high for s in range(200) for low, high in [fitted(made(KNOWN, 0.02, s))[1]["distinct_ms"]]]
    assert 0.88 < sum(inside) / len(inside) < 0.995


def test_pairs_never_make_a_step_shorter() -> None:
    points = made(replace(KNOWN, pair=-0.01))
    found, intervals = fitted(points)
    assert found.pair == 0
    assert intervals["pair_ms"][1] < 0, "the interval tells what was seen"
    rest = [found.distinct, found.step[4], found.step[8], found.rules["refill"], found.rules["alloc_t"]]
    assert rest == pytest.approx(by_numpy(points, left_out=1).tolist())


def test_what_is_held_out_does_not_move_the_fit() -> None:
    points = made(KNOWN, 0.02)
    apart = [replace(points[0], ms=1000.0, held_out=True)]
    assert fitted(points + apart)[0] == fitted(points)[0]
    assert abs(errors(fitted(points)[0], apart)[0]) > 0.5


@pytest.mark.parametrize(("points", "words"), [
    ([], "0 timed plans do not tell"), (made(KNOWN)[:3], "do not tell"),
    ([replace(p, pairs=p.distinct) for p in made(KNOWN)], "do not tell"),
])  # fmt: skip
def test_points_that_do_not_tell_costs_apart_are_refused(points: list[Point], words: str) -> None:
    with pytest.raises(AllocMoEError, match=words):
        fitted(points)


def test_what_was_not_timed_is_not_predicted() -> None:
    with pytest.raises(AllocMoEError, match="steps of 16 tokens were not timed, only of 4, 8"):
        KNOWN.of(16, "top_k", 1, 1)
    with pytest.raises(AllocMoEError, match="'naee' was not timed"):
        KNOWN.of(8, "naee", 1, 1)


def test_metrics_are_read_back() -> None:
    assert StepCost.from_metrics({**KNOWN.metrics(), "fit_error": 0.1}) == KNOWN


@pytest.mark.parametrize("tokens", [1, 4])
def test_the_design_moves_distinct_experts_and_pairs_apart(engine: HFEngine, tokens: int, tmp_path: Path) -> None:
    protocol = Protocol(batch=1, prompt=4, decode=2, warmups=0, runs=2)
    plans = designed(engine.spec, engine.fingerprint, tokens)
    assert len({p.digest for p in plans}) == len(plans)
    path = tmp_path / "r.jsonl"
    cost = fitting.fit(engine, [tokens], protocol, path, progress=False)
    timed = records.load(path)
    spread = {p["plan"]: p for p in cost.details["points"]}
    by_base: dict[float, list[dict]] = {}
    for plan in plans:
        point = spread[plan.digest]
        most = plan.parameters.get("pairs", plan.layers[0]) if plan.token_rule == "refill" else plan.layers[0]
        if plan.token_rule in ("top_k", "refill"):
            assert point["pairs"] <= tokens * most * len(plan.layers) + 1e-4
        if plan.token_rule == "refill":
            by_base.setdefault(plan.layers[0], []).append(point)
    assert bool(by_base) == (tokens > 1), "one token's refill is its own base"
    assert any(p["held_out"] for p in spread.values())
    assert {r.method for r in timed} == {fitting.DESIGN, HELD_OUT}
    records.append(path, cost)
    assert [r.to_dict() for r in records.load(path)] == [r.to_dict() for r in [*timed, cost]]


def test_layers_of_held_out_plans_differ(engine: HFEngine) -> None:
    plans = held_out(engine.spec, engine.fingerprint, 4, each=3)
    assert {p.token_rule for p in plans} == {"top_k", "refill", "alloc_t", "alloc_t_refill"}
    assert any(len(set(p.layers)) > 1 for p in plans)
    assert held_out(engine.spec, engine.fingerprint, 4, each=3) == plans


def test_an_interrupted_fit_goes_on_with_the_next_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, protocol, engine = tmp_path / "r.jsonl", Protocol(1, 2, 1, 0, 2), tiny("olmoe")
    session = fitting.session

    def stopping(engine: HFEngine, plans: list, settings: Protocol, *rest: Any) -> list[Record]:
        if settings.batch == 3:
            raise KeyboardInterrupt
        return session(engine, plans, settings, *rest)

    monkeypatch.setattr(fitting, "session", stopping)
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(engine, [2, 3], protocol, path, progress=False)
    before = records.load(path)
    assert {r.setup["batch"] for r in before} == {2}

    def counting(engine: HFEngine, plans: list, settings: Protocol, *rest: Any) -> list[Record]:
        assert settings.batch == 3, "the first batch was timed already"
        return session(engine, plans, settings, *rest)

    monkeypatch.setattr(fitting, "session", counting)
    cost = fitting.fit(engine, [2, 3], protocol, path, progress=False)
    assert records.load(path)[: len(before)] == before
    assert {p["tokens"] for p in cost.details["points"]} == {2, 3}


def test_another_machines_session_is_not_taken_and_does_not_hide_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, protocol, engine = tmp_path / "r.jsonl", Protocol(1, 2, 1, 0, 2), tiny("olmoe")
    fitting.fit(engine, [2], protocol, path, progress=False)
    own = records.load(path)
    path.unlink()
    records.append(path, *(replace(r, environment={**r.environment, "processor": "another"}) for r in own))
    fitting.fit(engine, [2], protocol, path, progress=False)
    assert len(records.load(path)) == 2 * len(own), "timed anew, on this machine"
    monkeypatch.setattr(fitting, "session", None)
    cost = fitting.fit(engine, [2], protocol, path, progress=False)
    assert cost.details["points"], "the session of this machine, behind the other's"


def test_every_number_has_words(tmp_path: Path) -> None:
    engine = tiny("olmoe")
    cost = fitting.fit(engine, [2], Protocol(1, 2, 1, 0, 1), tmp_path / "r.jsonl", progress=False)
    assert set(fitting.named(cost)) == set(StepCost.from_metrics(cost.metrics).metrics())
