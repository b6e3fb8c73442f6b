"""Curves against the rule obeyed in the whole model, one threshold at a time; plans along them against the budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from allocmoe import methods
from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.plan import Plan
from allocmoe.profile import curves
from allocmoe.profile.run import profile
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.routing import RULES
from tests.conftest import tiny

pytestmark = pytest.mark.whole

NAMES = ("adapmoe", "xmoe")
TEXT = Windows(torch.randint(1, 96, (40, 25), generator=torch.Generator().manual_seed(4)), "random")


def measured(engine: HFEngine) -> Sensitivity:
    return profile(engine, TEXT, 16, quantities=NAMES, progress=False)


def spent(engine: HFEngine, plan: Plan) -> list[float]:
    with engine.using(plan), engine.count() as found, torch.inference_mode():
        engine.backbone(TEXT.ids)
    return found.summary()["per_layer"]


def test_plans_spend_their_budget_in_the_whole_model(engine: HFEngine) -> None:
    known, spec = measured(engine), engine.spec
    for name in NAMES:
        for budget in np.linspace(spec.layers, spec.original_budget, 7).round():
            plan = methods.allocate(name, spec, engine.fingerprint, float(budget), known)
            found = spent(engine, plan)
            np.testing.assert_allclose(sum(found), budget, rtol=0.02, err_msg=f"{name} at {budget}")
            np.testing.assert_allclose(found, plan.layers, atol=0.15, err_msg=f"{name} at {budget}")
            if budget in (spec.layers, spec.original_budget):
                assert found == list(plan.layers)


def test_measured_points_are_what_one_threshold_spends(engine: HFEngine) -> None:
    """At the quantiles where the model runs nothing is interpolated."""
    known, spec = measured(engine), engine.spec
    for name in NAMES:
        found = known.quantity(name)
        own = {"fisher": known.quantity("fisher")} if name == "adapmoe" else {}
        rows = found["threshold"][1:-1]
        at = [i for i, level in enumerate(curves.LEVELS) if level in (0.1, 0.5, 0.8)]
        assert len(at) == 3
        for i in at if name == "xmoe" else [len(rows) - 1 - i for i in at]:
            base = methods.allocate("original", spec, engine.fingerprint, spec.original_budget)
            plan = replace(base, token_rule=name, parameters={"threshold": rows[i], **own})
            np.testing.assert_allclose(spent(engine, plan), found["kept"][1 + i], atol=2e-3)


def test_a_curve_runs_from_one_expert_to_all(engine: HFEngine) -> None:
    known, spec = measured(engine), engine.spec
    for name in NAMES:
        found = known.quantity(name)
        limits, totals = found["threshold"], np.sum(found["kept"], axis=1)
        assert limits == sorted(limits, reverse=name == "adapmoe")
        assert (totals[0], totals[-1]) == (spec.layers, spec.original_budget)
        assert np.diff(totals).min() > -0.05 * spec.layers
        assert np.diff(totals).max() < 0.1 * spec.original_budget
        assert RULES[name].keep_all(spec.top_k, spec.experts)["threshold"] == limits[-1]


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_only_cut_the_text(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny("qwen2_moe")
    whole = measured(engine)
    monkeypatch.setattr(curves, "TOKENS", 1000)
    few = profile(engine, TEXT, batch, quantities=NAMES, progress=False)
    for name in NAMES:
        for part in ("threshold", "kept"):
            np.testing.assert_allclose(few.quantity(name)[part], whole.quantity(name)[part], rtol=1e-5)
    assert engine.plan is None
