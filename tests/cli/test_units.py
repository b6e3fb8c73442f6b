"""`allocate` for budgets in other units, with the costs of a fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import MODEL, SPEC, assert_refused, call, good

from allocmoe.mini import resolve
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record, append
from allocmoe.spec import fingerprint

pytestmark = pytest.mark.whole

MARK = fingerprint(resolve(MODEL))
L, K = SPEC.layers, SPEC.top_k
FIT = Record(
    "cost",
    MODEL,
    MARK,
    None,
    None,
    None,
    {},
    {"distinct_ms": 0.5, "pair_ms": 0.125, "step_ms/8": 10.0, "rule_ms/refill": 0.0},
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """What a batch of 8 reads if k0 opens 8 k0 experts, and refill gives every token what is allowed."""
    k0, most = np.meshgrid(np.arange(1, K + 1), np.arange(1, K + 1), indexing="ij")
    wide = np.maximum(k0, most)
    same = {"batch": 8, "passes": 4}
    loss = np.tile(2 + 1 / k0 + 0.1 / wide, (L, 1, 1))
    values = {
        "decode": {"loss": loss[..., -1].tolist(), "distinct": [[8.0 * k for k in range(1, K + 1)]] * L,
                   "pairs": [[8.0 * K] * K] * L, **same},
        "decode_pairs": {"loss": loss.tolist(), "pairs": np.tile(8.0 * wide, (L, 1, 1)).tolist(), **same},
    }  # fmt: skip
    path = tmp_path / "profile.json"
    Sensitivity(SPEC, MARK, values).save(path)
    return path


def allocated(profile: Path, *args: Any) -> dict[str, Any]:
    plan = profile.with_name("plan.json")
    out = good("allocate", MODEL, "--method", "alloc-d", "--profile", profile, "--out", plan, *args, "--json").out
    found: dict[str, Any] = json.loads(out)
    return found


def test_milliseconds_with_the_costs_of_a_fit(profile: Path) -> None:
    records = profile.with_name("cost.jsonl")
    append(records, replace(FIT, metrics=FIT.metrics | {"distinct_ms": 5.0}), FIT)
    cheapest, dearest = 10 + L * (0.5 * 8 + 0.125 * 8), 10 + L * K * (0.5 * 8 + 0.125 * 8)
    budget = (cheapest + dearest) / 2
    found = allocated(profile, "--cost", records, "--unit", "ms", "--budget", budget)
    pairs = found["parameters"]["pairs"]
    spent = 10 + sum(0.5 * 8 * k + 0.125 * 8 * p for k, p in zip(found["layers"], pairs, strict=True))
    assert budget - 6 < spent <= budget
    assert (
        found["origin"] | {"unit": "ms", "asked": budget, "cost_distinct": 0.5, "cost_pairs": 0.125} == found["origin"]
    )
    assert found["origin"]["expected"] == pytest.approx(spent)
    text = good("allocate", MODEL, "--method", "alloc-d", "--profile", profile, "--out", profile.with_name("p.json"),
                "--cost", records, "--unit", "ms", "--budget", budget)  # fmt: skip
    assert f"asked for {budget:g} ms, expected to take" in text.out
    assert "pairs per layer:" in text.out
    assert "note" not in text.err
    append(records, replace(FIT, fingerprint="f" * 16, model="another"))
    other = good("allocate", MODEL, "--method", "alloc-d", "--profile", profile, "--out", profile.with_name("p.json"),
                 "--cost", records, "--unit", "ms", "--budget", budget)  # fmt: skip
    assert "timed on another model, another" in " ".join(other.err.split())


def test_distinct_experts_and_costs_by_hand(profile: Path) -> None:
    found = allocated(profile, "--unit", "distinct", "--budget", 8 * (K - 0.5))
    assert 8 * np.mean(found["layers"]) <= 8 * (K - 0.5)
    assert found["budget"] == L * K - L // 2
    plain, priced = (allocated(profile, "--budget", 2 * L, *more) for more in ([], ["--set", "cost_distinct=0.5"]))
    assert plain["digest"] == priced["digest"]
    assert priced["origin"]["cost_distinct"] == 0.5


def test_what_cannot_be_is_one_line(profile: Path) -> None:
    empty, records = profile.with_name("none.jsonl"), profile.with_name("cost.jsonl")
    append(empty, replace(FIT, about="speed", metrics={}))
    append(records, replace(FIT, metrics=FIT.metrics | {"step_ms/4": 9.0}))
    base = ["allocate", MODEL, "--method", "alloc-d", "--profile", profile, "--out", profile.with_name("plan.json")]
    ms = ["--unit", "ms", "--budget", 100]
    for more, says in (
        (["--unit", "ms"], "needs a --budget"),
        (ms, "what a step takes"),
        ([*ms, "--cost", empty], "`allocmoe fit`"),
        ([*ms, "--cost", profile.with_name("nowhere.jsonl")], "cannot read"),
        (["--unit", "ms", "--budget", 1, "--cost", records], "the cheapest plan takes"),
        (["--unit", "hours", "--budget", 1], "unknown unit"),
        (["--unit", "distinct", "--budget", 30, "--cost", records], "counts those alone"),
    ):
        assert_refused(call(*base, *more), says)
    assert_refused(call("allocate", MODEL, "--method", "uniform", *ms), "no option unit")
    assert_refused(call("allocate", MODEL, "--method", "alloc-d", *ms, "--cost", records), "--cost needs a --profile")
    assert not profile.with_name("plan.json").exists()
