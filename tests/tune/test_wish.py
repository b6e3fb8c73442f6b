"""Wishes as they are typed, and losses against a plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.tune.wish import Limit, Wish, loss

RNG = np.random.default_rng(3)
ITEMS = list(range(40))


def record(nll: np.ndarray, kl: np.ndarray, right: np.ndarray) -> Record:
    tasks = {t: {"ids": ITEMS, "correct": row.tolist()} for t, row in zip(("a", "b"), right, strict=True)}
    return Record(
        "quality", "m", "f", "uniform", 4, "p", {}, {},
        samples={"nll": nll.tolist(), "kl": kl.tolist(), "window_tokens": [9] * len(nll), "tasks": tasks},
        details={"groups": {"one": ["a"], "two": ["b"]}},
    )  # fmt: skip


WHOLE = record(RNG.normal(2, 0.1, 20), np.zeros(20), RNG.random((2, 40)) < 0.8)
LESS = record(np.array(WHOLE.samples["nll"]) + RNG.normal(0.05, 0.01, 20), RNG.random(20), RNG.random((2, 40)) < 0.6)


@pytest.mark.parametrize(("text", "metric", "most"), [
    ("1%", "perplexity", 1), ("0.5 %", "perplexity", 0.5), ("0.02 nats", "kl", 0.02), ("2points", "accuracy", 2),
    ("0%", "perplexity", 0), ("1e-3nats", "kl", 0.001),
])  # fmt: skip
def test_limits(text: str, metric: str, most: float) -> None:
    assert Limit.parse(text) == Limit(metric, most)
    assert Wish(limit=Limit.parse(text)).metric == metric


@pytest.mark.parametrize("text", ["", "1", "1 kg", "-1%", "nan%", "inf%", "%", "1e999%", "x%", "1%%", "9" * 100_000])
def test_other_limits_are_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(AllocMoEError, match="give a rise of perplexity") as error:
        Limit.parse(text)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("speedup", [1.0, 0.5, -2, math.nan, math.inf])
def test_a_speedup_is_above_one(speedup: float) -> None:
    with pytest.raises(AllocMoEError, match="above 1"):
        Wish(speedup)


def test_a_wish_is_needed() -> None:
    with pytest.raises(AllocMoEError, match="a wish is needed: --speedup"):
        Wish()


def test_wishes_in_words() -> None:
    assert str(Wish(1.5)) == "1.5x faster"
    assert str(Wish(1.5, Limit("perplexity", 1))) == "1.5x faster and at most 1 % of perplexity lost"
    assert str(Limit("kl", 0.02)) == "0.02 nats of KL divergence"


def test_losses_are_their_definitions() -> None:
    nll = [np.mean(r.samples["nll"]) for r in (LESS, WHOLE)]
    assert loss("perplexity", LESS, WHOLE).estimate == pytest.approx(100 * (math.exp(nll[0] - nll[1]) - 1))
    assert loss("kl", LESS, WHOLE).estimate == pytest.approx(np.mean(LESS.samples["kl"]))
    share = [np.mean([np.mean(t["correct"]) for t in r.samples["tasks"].values()]) for r in (LESS, WHOLE)]
    assert loss("accuracy", LESS, WHOLE).estimate == pytest.approx(100 * (share[1] - share[0]))
    for metric in ("perplexity", "kl", "accuracy"):
        found = loss(metric, LESS, WHOLE)
        assert 0 < found.low < found.estimate < found.high


def test_a_loss_that_is_not_told_is_an_error() -> None:
    bare = Record("quality", "m", "f", "uniform", 4, "p", {}, {})
    for metric in ("perplexity", "kl", "accuracy"):
        with pytest.raises(AllocMoEError, match=f"the loss in {metric} cannot be told"):
            loss(metric, bare, WHOLE)
