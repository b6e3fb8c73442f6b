"""Windows as if decoded, against decoding with a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine, scoring_of
from allocmoe.engines.passes import by_position
from allocmoe.engines.planned import PlannedLayer
from allocmoe.engines.spent import COUNTS
from allocmoe.methods import METHODS, allocate, sweep
from allocmoe.plan import Plan
from allocmoe.profile.run import profile
from allocmoe.routing import RULES

pytestmark = pytest.mark.whole

IDS = torch.randint(1, 96, (5, 12), generator=torch.Generator().manual_seed(2))
OTHER = Windows(torch.randint(1, 96, (5, 12), generator=torch.Generator().manual_seed(3)), "random")


def plans_of(engine: HFEngine) -> list[Plan]:
    """One of every method. The profile is of another text: a threshold is one of its scores, so that a tie would be
    met there."""
    known = profile(engine, OTHER, 5, progress=False)
    return sweep(engine, known, list(METHODS), [int(2.4 * engine.spec.layers)])


def decoded(engine: HFEngine, ids: Tensor) -> tuple[Tensor, dict[str, list[Any]]]:
    """Log-probabilities [B, T, V] of decoding token by token with a cache, and what was counted."""
    seen: list[Tensor] = []
    hook = engine.model.register_forward_hook(lambda _module, _args, output: seen.append(output.logits[:, -1]))
    with engine.count() as spent:
        engine.decode(engine.prefill(ids[:, :1]), ids[:, 1:])
        counted = {name: getattr(spent, name).tolist() for name in COUNTS}
    hook.remove()
    return torch.stack(seen, dim=1).double().log_softmax(-1), counted


@torch.inference_mode()
def at_once(engine: HFEngine, ids: Tensor) -> tuple[Tensor, dict[str, list[Any]]]:
    with engine.count() as spent, engine.as_decode():
        states = engine.backbone(ids)
        counted = {name: getattr(spent, name).tolist() for name in COUNTS}
    return engine.model.get_output_embeddings()(states).double().log_softmax(-1), counted


def test_every_method_computes_and_counts_what_decoding_does(engine: HFEngine) -> None:
    plans = plans_of(engine)
    assert {plan.token_rule for plan in plans} == set(RULES)
    for plan in plans:
        with engine.using(plan):
            found, counted = at_once(engine, IDS)
            wanted, really = decoded(engine, IDS)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=lambda m, p=plan: f"{p.method}: {m}")
            assert counted == really, plan.method
            losses = -wanted[:, :-1].gather(-1, IDS[:, 1:, None]).squeeze(-1).sum(1)
            with engine.as_decode():
                torch.testing.assert_close(engine.nll(IDS), losses, rtol=0, atol=1e-4)


def test_a_rule_of_the_whole_pass_decides_otherwise_in_one_prefill(engine: HFEngine) -> None:
    plan = allocate("alloc-t", engine.spec, engine.fingerprint, int(2.4 * engine.spec.layers))
    with engine.using(plan):
        whole, (single, _) = engine.nll(IDS), at_once(engine, IDS)
        with engine.as_decode():
            split = engine.nll(IDS)
        assert (whole - split).abs().max() > 1e-3
        assert torch.equal(engine.nll(IDS), whole), "the context is over"
        with torch.no_grad(), engine.as_decode():  # a call of the model itself stays as it is
            usual = engine.model(input_ids=IDS, use_cache=False).logits.double().log_softmax(-1)
        assert (usual - single).abs().max() > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_rules_that_take_passes_together_decide_as_one_after_the_other(engine: HFEngine, rule: str) -> None:
    """The same plan with what its rule says of passes taken away, so that each pass is a call of its own."""
    plan = next(p for p in plans_of(engine) if p.token_rule == rule)
    layer = PlannedLayer.of(plan, 0, scoring=lambda: scoring_of(engine.routers[0], engine.spec))
    slow = replace(layer, rule=replace(layer.rule, alone=False, many=False))
    logits = torch.randn(6 * 4, engine.spec.experts, generator=torch.Generator().manual_seed(1))
    logits = (2 * logits).round() / 2  # ties
    weights, index = logits.softmax(-1).topk(engine.spec.top_k, sorted=False)
    one, two = (by_position(each, 4, weights, index, logits) for each in (layer, slow))
    for row in range(len(logits)):
        pairs = [
            {int(e): float(w) for e, w in zip(ids[row], ws[row], strict=True) if e != layer.dropped}
            for ws, ids in (one, two)
        ]
        assert pairs[0] == pytest.approx(pairs[1])


def test_passes_that_keep_different_columns_are_filled_up_with_dropped_pairs() -> None:
    class Rule:
        dropped, calls = 9, 0

        def __call__(self, weights: Tensor, index: Tensor, _valid: None, _logits: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += 1
            return weights[:, : self.calls], index[:, : self.calls]

    weights, index = torch.rand(6, 3), torch.arange(18).view(6, 3) % 9
    kept, ids = by_position(Rule(), 3, weights, index, torch.zeros(6, 9))
    mask = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]] * 2, dtype=bool)
    np.testing.assert_array_equal(ids, np.where(mask, index, 9))
    np.testing.assert_array_equal(kept, np.where(mask, weights, 0))
