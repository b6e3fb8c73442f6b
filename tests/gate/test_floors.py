"""Margins of a row and floors under it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from measured import NAME, machine, row, slower
from statsmodels.stats import multitest  # noqa: F401  slow to import, so not in a test

from allocmoe import gate
from allocmoe.errors import AllocMoEError
from allocmoe.gate import PASS, REGRESSED, UNMEASURED, compare

pytestmark = pytest.mark.whole


def test_margins(old, new):
    slow = slower(new, 1.05)
    assert compare(slow, old, {"prefill": 10, "decode": 10}).code == 0
    assert compare(new, old, {"decode": 0.01}).code == 2
    for bad in ({"decode": 0}, {"decode": -1}, {"decode": math.nan}, {"decode": math.inf}):
        with pytest.raises(AllocMoEError, match="no margin decode"):
            compare(new, old, bad)
    with pytest.raises(AllocMoEError, match="no metric 'speed': expected one of perplexity"):
        compare(new, old, {"speed": 1})


@pytest.mark.parametrize(
    ("name", "limit", "code"),
    [
        (f"{NAME}/perplexity", 1000, 0), (f"{NAME}/perplexity", 1.0, 1), (f"{NAME}/accuracy", 0.1, 0),
        (f"{NAME}/accuracy", 0.99, 1), (f"{NAME}/decode", 1.1, 0), (f"{NAME}/decode", 1.25, 1),
        (f"{NAME}/prefill", 1.25, 1), (f"{NAME}/activations", 64.5, 0), (f"{NAME}/activations", 63.5, 1),
        ("mini/lexi/64/decode", 1.0, 2), ("mini/original/128/decode", 1.0, 2),
    ],
)  # fmt: skip
def test_floors_hold_whatever_the_baseline(old, new, name, limit, code):
    found = compare(new, old, floors={name: limit})
    assert found.code == code
    assert row(found, name).verdict == {0: PASS, 1: REGRESSED, 2: UNMEASURED}[code]
    if code:
        assert "floor" in row(found, name).reason
    without = compare(new, [r for r in old if r.method != "alloc-moe"], floors={name: limit})
    assert without.code == code, "a row without a baseline has a floor too"


def test_a_floor_of_what_is_not_comparable_still_holds(old, new):
    moved = [replace(r, environment=machine(processor="new")) for r in new]
    found = compare(moved, old, floors={f"{NAME}/accuracy": 0.99, f"{NAME}/perplexity": 1000.0})
    assert found.code == 1
    assert row(found, f"{NAME}/accuracy").verdict == REGRESSED
    assert row(found, f"{NAME}/perplexity").verdict == UNMEASURED


def test_floors_file(tmp_path):
    path = tmp_path / "floors.json"
    rows = {"mini-olmoe/alloc-moe/64/perplexity": 6.4, "a/b (random weights)/lexi/8/decode": 1}
    path.write_text(json.dumps({"kind": "allocmoe.floors", "version": 1, "rows": rows}))
    assert gate.load_floors(path) == rows
    for bad in ({"mini/alloc-moe/64/speed": 1}, {"mini/alloc-moe/decode": 1}, {"m/a/64/decode": "fast"}, {"x": 1}):
        path.write_text(json.dumps({"kind": "allocmoe.floors", "version": 1, "rows": bad}))
        with pytest.raises(AllocMoEError, match="not a valid floors"):
            gate.load_floors(path)


def test_a_floor_of_an_unknown_metric_is_refused_in_a_short_line(tmp_path, old, new):
    path = tmp_path / "floors.json"
    row_ = f"mini/alloc-moe/64/{'x' * 100_000}"
    path.write_text(json.dumps({"kind": "allocmoe.floors", "version": 1, "rows": {row_: 1}}))
    for call in (lambda: gate.load_floors(path), lambda: compare(new, old, floors={row_: 1.0})):
        with pytest.raises(AllocMoEError, match="no metric 'xxx") as caught:
            call()
        assert len(str(caught.value)) < 500
