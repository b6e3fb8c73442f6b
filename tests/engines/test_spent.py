"""Counting against loops over ids, and counts of several workers made one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.engines.spent import COUNTS, Spent

LAYERS, EXPERTS = 3, 5


def counts(spent: Spent) -> dict[str, Any]:
    return {"activations": spent.activations.tolist(), **{n: getattr(spent, n).tolist() for n in COUNTS}}


@st.composite
def passes(draw: st.DrawFn) -> list[tuple[int, list[list[int]], list[bool] | None]]:
    """Forward passes: a layer, ids [T, k] with -1 or N where dropped, and which rows are real."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        row = st.lists(st.integers(-1, EXPERTS), min_size=width, max_size=width)
        real = draw(st.none() | st.lists(st.booleans(), min_size=rows, max_size=rows))
        ids = draw(st.lists(row, min_size=rows, max_size=rows))
        found.append((draw(st.integers(0, LAYERS - 1)), ids, real))
    return found


def by_hand(seen: list[tuple[int, list[list[int]], list[bool] | None]]) -> dict[str, Any]:
    load = [[0] * EXPERTS for _ in range(LAYERS)]
    tokens, distinct, passed, spent = ([0] * LAYERS for _ in range(4))
    for layer, ids, real in seen:
        rows = [row for t, row in enumerate(ids) if real is None or real[t]]
        used = [e for row in rows for e in row if 0 <= e < EXPERTS]
        for e in used:
            load[layer][e] += 1
        spent[layer] += len(used)
        tokens[layer] += len(rows)
        distinct[layer] += len(set(used))
        passed[layer] += bool(rows)
    return {"activations": spent, "load": load, "tokens": tokens, "distinct": distinct, "passes": passed}


@settings(deadline=None, max_examples=200)
@given(passes(), st.sampled_from([torch.int32, torch.int64]))
def test_counts_are_those_of_a_loop(seen: list, dtype: torch.dtype) -> None:
    spent = Spent(LAYERS, EXPERTS)
    for layer, ids, real in seen:
        spent.add(layer, torch.tensor(ids, dtype=dtype), None if real is None else torch.tensor(real))
    assert counts(spent) == by_hand(seen)


def test_both_marks_are_dropped_and_no_expert_takes_their_place() -> None:
    spent = Spent(1, EXPERTS)
    spent.add(0, torch.tensor([[0, -1], [EXPERTS, EXPERTS - 1], [-1, EXPERTS]]), None)
    assert counts(spent) == {
        "activations": [2], "load": [[1, 0, 0, 0, 1]], "tokens": [3], "distinct": [2], "passes": [1],
    }  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_several_passes_at_once_are_as_one_after_the_other(data: st.DataObject, several: int, batch: int) -> None:
    row = st.lists(st.integers(-1, EXPERTS), min_size=3, max_size=3)
    ids = torch.tensor(data.draw(st.lists(row, min_size=several * batch, max_size=several * batch)))
    drawn = data.draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    real = None if drawn is None else torch.tensor(drawn)
    at_once, apart = Spent(1, EXPERTS), Spent(1, EXPERTS)
    at_once.add(0, ids, real, several)
    for number in range(several):
        apart.add(0, ids[number::several], None if real is None else real[number::several])
    assert counts(at_once) == counts(apart)


def test_padding_alone_is_no_pass() -> None:
    spent = Spent(1, EXPERTS)
    spent.add(0, torch.tensor([[0, 1], [2, 3]]), torch.zeros(2, dtype=torch.bool))
    assert counts(spent) == counts(Spent(1, EXPERTS))


def test_what_it_counts_is_left_alone() -> None:
    ids = torch.tensor([[0, -1], [5, 4]])
    Spent(1, EXPERTS).add(0, ids, torch.tensor([True, False]))
    assert ids.tolist() == [[0, -1], [5, 4]]


def test_reset_begins_anew() -> None:
    spent = Spent(LAYERS, EXPERTS)
    spent.add(1, torch.tensor([[0, 1]]), None)
    spent.reset()
    assert counts(spent) == counts(Spent(LAYERS, EXPERTS))


@settings(deadline=None, max_examples=100)
@given(passes(), st.data())
def test_merged_is_what_one_worker_would_have_counted(seen: list, data: st.DataObject) -> None:
    """Pipeline parallelism gives each layer to one stage, tensor parallelism to several workers alike."""
    cut = data.draw(st.integers(0, LAYERS))
    copies = data.draw(st.integers(1, 3))
    stages = []
    for own in (range(cut), range(cut, LAYERS)):
        stage = Spent(LAYERS, EXPERTS)
        for layer, ids, real in seen:
            if layer in own:
                stage.add(layer, torch.tensor(ids), None if real is None else torch.tensor(real))
        stages += [stage.to_dict()] * copies
    parts = data.draw(st.permutations(stages))
    assert counts(Spent.merged(parts)) == by_hand(seen)


@settings(deadline=None, max_examples=50)
@given(passes())
def test_it_comes_back_from_its_lists(seen: list) -> None:
    """As a worker sends it: through JSON, and with what else the worker tells."""
    spent = Spent(LAYERS, EXPERTS)
    for layer, ids, real in seen:
        spent.add(layer, torch.tensor(ids), None if real is None else torch.tensor(real))
    sent = json.loads(json.dumps(spent.to_dict()))
    again = Spent.merged([{**sent, "plan": None, "method": "original"}])
    assert again.shape == (LAYERS, EXPERTS)
    assert counts(again) == counts(spent)
    assert again.to_dict() == sent


def test_a_summary_is_per_token_and_per_pass() -> None:
    spent = Spent(2, EXPERTS)
    spent.add(0, torch.tensor([[0, 1], [1, -1]]), None)  # 3 of 2 tokens, 2 experts
    spent.add(0, torch.tensor([[4, 3], [0, 0]]), torch.tensor([True, False]))  # 2 of 1 token, 2 experts
    summary = spent.summary()
    assert summary["per_layer"] == [pytest.approx(5 / 3, abs=1e-6), 0.0]
    assert summary["per_token"] == pytest.approx(5 / 3, abs=1e-6)
    assert summary["distinct_per_layer"] == [2.0, 0.0]
