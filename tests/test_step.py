"""What records say that a decode step takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.records import Record, append, load
from allocmoe.records.views import cost
from tests.test_records import record


def fit(**metrics: float) -> Record:
    return record(about="cost", method=None, budget=None, plan=None, metrics=metrics)


def test_what_a_step_takes_is_the_latest_fit(tmp_path: Path) -> None:
    steps = {"step_ms/1": 3.0, "step_ms/8": 4.0}
    path = tmp_path / "records.jsonl"
    append(path, fit(distinct_ms=0.6, pair_ms=0.2, **steps), fit(distinct_ms=0.5, pair_ms=0.125, **steps), record())
    assert cost(load(path), 8) == (4.0, 0.5, 0.125)
    assert cost(load(path), 1) == (3.0, 0.5, 0.125)
    append(path, fit(distinct_ms=0.5, pair_ms=0.125, **steps, **{"rule_ms/refill": 0.75, "rule_ms/alloc_t": 2.0}))
    assert cost(load(path), 8, "refill") == (4.75, 0.5, 0.125)
    assert cost(load(path), 8) == (4.0, 0.5, 0.125)
    with pytest.raises(AllocMoEError, match="the rule 'cap' was not timed"):
        cost(load(path), 8, "cap")


def test_the_latest_fit_is_the_one_made_last_wherever_it_stands(tmp_path: Path) -> None:
    path, step = tmp_path / "records.jsonl", {"step_ms/8": 4.0, "pair_ms": 0.1}
    for day, ms in ((2, 0.6), (1, 0.5)):
        made = fit(distinct_ms=ms, **step)
        append(path, replace(made, created=f"2026-01-0{day}T00:00:00+00:00"))
    assert cost(load(path), 8) == (4.0, 0.6, 0.1)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([], "say nothing of what a step takes"),
        ([record()], "say nothing of what a step takes"),
        (
            [fit(distinct_ms=0.5, pair_ms=0.1, **{"step_ms/1": 3.0, "step_ms/16": 5.0})],
            "steps of 8 tokens were not timed, only of 1, 16",
        ),
        ([fit(pair_ms=0.1, **{"step_ms/8": 3.0})], "lacks distinct_ms"),
        ([fit()], "lacks distinct_ms and pair_ms"),
    ],
)
def test_a_fit_that_is_missing_or_lacks_the_batch_is_named(found: list[Record], says: str) -> None:
    with pytest.raises(AllocMoEError, match=f"{says}.*allocmoe fit") as caught:
        cost(found, 8)
    assert "\n" not in str(caught.value)
