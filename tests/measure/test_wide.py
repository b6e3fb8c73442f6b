"""An embedded model's plans on its wide shape: the same masks, and refused where they do not belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from allocmoe import mini
from allocmoe.engines.planned import PlannedLayer
from allocmoe.errors import AllocMoEError
from allocmoe.measure import shapes
from allocmoe.measure.wide import WIDE, shape_of, transplanted
from allocmoe.methods import METHODS, allocate
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.spec import MoESpec

pytestmark = pytest.mark.whole

PROFILES = Path(__file__).parents[1] / "goldens/profiles"
KNOWN = [m for m, row in METHODS.items() if set(row.needs) <= {"perplexity", "distances", "top_p", "naee"}]
"""What the profiles kept for tests are enough for."""


def spec_of(shape: str) -> MoESpec:
    return MoESpec.from_config(shapes.SHAPES[shape]())


def engine_of(shape: str) -> Any:
    """What transplanting asks of an engine: no weights."""
    return SimpleNamespace(spec=spec_of(shape), fingerprint="random-123456789", name=f"{shape} (random weights)")


def plan_of(model: str, method: str) -> Plan:
    known = Sensitivity.load(PROFILES / f"{model}.json")
    budget = known.spec.original_budget // (1 if method == "original" else 2)
    return allocate(method, known.spec, known.fingerprint, budget, known)


@pytest.mark.parametrize("shape", WIDE)
def test_a_wide_shape_routes_as_its_embedded_model(shape: str) -> None:
    """L, N, K, shared experts, dense layers, scoring and family, and so the budgets."""
    mine, home = spec_of(shape), MoESpec.from_folder(mini.resolve(WIDE[shape]))
    assert mine == home
    assert mine.budgets() == home.budgets()
    assert shape_of(WIDE[shape]) == shape
    assert shape_of("some/checkpoint") is None


def test_every_embedded_model_has_a_wide_shape() -> None:
    assert sorted(WIDE.values()) == mini.shipped()
    assert set(WIDE) < set(shapes.SHAPES)


@pytest.mark.parametrize("shape", WIDE)
@pytest.mark.parametrize("method", KNOWN)
def test_the_wide_plan_keeps_what_the_embedded_models_keeps(shape: str, method: str) -> None:
    """On the same candidates, in every layer; and a changed plan does not, so the comparison can fail."""
    mine = plan_of(WIDE[shape], method)
    moved = transplanted(mine, engine_of(shape), WIDE[shape])
    moved.check_model(spec_of(shape), "random-123456789")
    generator = torch.Generator().manual_seed(0)
    for layer in range(len(mine.layers)):
        logits = torch.randn(24, mine.experts, generator=generator)
        weights, index = logits.softmax(-1).topk(mine.top_k)
        pairs = zip(*(PlannedLayer.of(p, layer)(weights, index, None, logits) for p in (mine, moved)), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert moved.layers == mine.layers
    assert moved.parameters == mine.parameters
    assert moved.digest != mine.digest, "of another model"


def test_a_record_says_where_its_plan_comes_from() -> None:
    mine = plan_of("mini-olmoe", "alloc-moe")
    engine = engine_of("olmoe-wide")
    details = transplanted(mine, engine, "mini-olmoe").described()
    assert details["transplanted"] == {
        "model": "mini-olmoe", "fingerprint": mine.fingerprint, "plan": mine.digest,
    }  # fmt: skip
    assert details["origin"] == mine.origin
    assert "transplanted" not in mine.described()


def test_a_plan_of_another_routing_shape_is_refused() -> None:
    mine = plan_of("mini-olmoe", "uniform")
    with pytest.raises(AllocMoEError, match=r"cannot be transplanted.*\(16, 64, 8\).*\(24, 60, 4\).*olmoe-wide"):
        transplanted(mine, engine_of("qwen-wide"), "mini-olmoe")
    for what in ({"layers": 15}, {"experts": 63}, {"top_k": 7}):
        engine = engine_of("olmoe-wide")
        engine.spec = replace(engine.spec, **what)
        with pytest.raises(AllocMoEError, match="cannot be transplanted"):
            transplanted(mine, engine, "mini-olmoe")
