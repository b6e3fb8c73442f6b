"""The transformers engine against a loop over tokens and experts, written from the equations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, GraniteMoeConfig

from allocmoe import methods
from allocmoe.data.text import Windows
from allocmoe.engines import experts
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.methods import sweep
from allocmoe.plan import Plan
from allocmoe.profile.run import profile
from allocmoe.spec import MoESpec
from tests.conftest import FAMILIES, tiny
from tests.engines.loops import ORACLES

IDS = torch.randint(1, 96, (4, 24), generator=torch.Generator().manual_seed(0))


def plans_of(engine: HFEngine, budgets: int = 2) -> list[Plan]:
    known = profile(engine, Windows(IDS, "random"), 4, progress=False)
    low, high = engine.spec.layers, engine.spec.original_budget
    chosen = [int(b) for b in np.linspace(low, high, budgets + 2)[1:-1]]
    names = [n for n, row in methods.METHODS.items() if not row.rules[1].logits and "scending" not in n]
    return sweep(engine, known, names, chosen)


def reference_mask(scores: np.ndarray, plan: Plan, layer: int, real: np.ndarray) -> np.ndarray:
    """Keep mask by plain loops; scores [T, K] sorted, `real` says which rows are tokens."""
    tokens, top = scores.shape
    keep = np.zeros((tokens, top), dtype=bool)
    k = plan.layers[layer]
    if plan.token_rule == "alloc_t":
        rows = [t for t in range(tokens) if real[t]]
        base = min(plan.parameters["k_base"], int(k))
        pool = sorted((-scores[t, j], t, j) for t in rows for j in range(base, top))
        for t in rows:
            keep[t, :base] = True
        for _, t, j in pool[: int(np.floor(k * len(rows) + 1e-6)) - base * len(rows)]:
            keep[t, j] = True
        return keep
    for t, j in itertools.product(range(tokens), range(top)):
        if plan.token_rule == "top_k":
            keep[t, j] = j < k
        elif plan.token_rule == "top_p":
            before = np.cumsum(scores[t, :j], dtype=np.float64).astype(np.float32)  # as torch accumulates
            keep[t, j] = j == 0 or before[-1] <= plan.parameters["threshold"][layer]
        elif plan.token_rule == "naee":
            keep[t, j] = j == 0 or scores[t, j] / scores[t, 0] >= plan.parameters["threshold"][layer]
        else:
            row = [(float(w), at) for at, w in enumerate(scores[t])]
            keep[t, j] = j in {at for _, at in ORACLES[plan.token_rule]({0: row}, plan.numbers(layer), None)[0]}
    keep[~real] = False
    return keep


class Reference:
    """Replaces every MoE block's experts by a loop over tokens and kept experts."""

    def __init__(self, engine: HFEngine, plan: Plan, real: np.ndarray) -> None:
        self.engine, self.plan, self.real = engine, plan, real

    def __enter__(self) -> None:
        for layer, router in enumerate(self.engine.routers):
            block: Any = next(m for m in self.engine.model.modules() if any(c is router for c in m.children()))
            block.experts.forward = self._experts(layer, block.experts)

    def __exit__(self, *_: object) -> None:
        for router in self.engine.routers:
            block: Any = next(m for m in self.engine.model.modules() if any(c is router for c in m.children()))
            del block.experts.forward

    def _experts(self, layer: int, module: Any) -> Any:
        def forward(x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            worth = weights.float()
            if self.plan.norms:
                worth = worth * torch.tensor(self.plan.norms[layer])[index]
            order = worth.argsort(dim=-1, descending=True, stable=True)
            weights, index, worth = (tensor.gather(1, order) for tensor in (weights, index, worth))
            keep = reference_mask(worth.numpy(), self.plan, layer, self.real)
            total = torch.zeros_like(x)
            for t in range(len(x)):
                scale = self.plan.scale[layer] if self.plan.scale else 1.0
                if self.plan.reference == "survivors" and keep[t].any():
                    scale = float(weights[t].sum() / weights[t][keep[t]].sum())
                for j in np.flatnonzero(keep[t]):
                    e = int(index[t, j])
                    gate, up = (module.gate_up_proj[e] @ x[t]).chunk(2)
                    total[t] += scale * weights[t, j] * (module.down_proj[e] @ (F.silu(gate) * up))
            return total

        return forward


def logits(engine: HFEngine, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return engine.model(use_cache=False, **kwargs).logits


@pytest.mark.whole
def test_every_method_computes_what_its_equations_say(engine: HFEngine) -> None:
    for plan in plans_of(engine):
        with engine.using(plan):
            ours = logits(engine, input_ids=IDS)
        with Reference(engine, plan, np.ones(IDS.numel(), dtype=bool)):
            theirs = logits(engine, input_ids=IDS)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda m, p=plan: f"{p.method}: {m}")


def test_survivors_share_the_original_mass(engine: HFEngine) -> None:
    budget = engine.spec.layers * 2
    plan = methods.allocate("alloc-t", engine.spec, engine.fingerprint, budget, reference="survivors")
    with engine.using(plan):
        ours = logits(engine, input_ids=IDS)
    with Reference(engine, plan, np.ones(IDS.numel(), dtype=bool)):
        theirs = logits(engine, input_ids=IDS)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_original_is_the_unchanged_model_and_revert_restores_it(engine: HFEngine) -> None:
    spec = engine.spec
    untouched = logits(engine, input_ids=IDS)
    with engine.using(methods.allocate("original", spec, engine.fingerprint, spec.original_budget)):
        assert torch.equal(logits(engine, input_ids=IDS), untouched)
    half = methods.allocate("uniform", spec, engine.fingerprint, spec.layers * 2)
    engine.apply(half)
    assert not torch.allclose(logits(engine, input_ids=IDS), untouched)
    engine.apply(methods.allocate("uniform", spec, engine.fingerprint, spec.layers))  # live switch
    engine.revert()
    assert torch.equal(logits(engine, input_ids=IDS), untouched)
    assert engine.plan is None


def test_whole_budgets_are_spent_exactly(engine: HFEngine) -> None:
    for plan in plans_of(engine):
        with engine.using(plan), engine.count() as spent:
            logits(engine, input_ids=IDS)
        if plan.token_rule in ("top_k", "alloc_t"):
            expected = [int(np.floor(k * IDS.numel() + 1e-6)) for k in plan.layers]
            assert spent.activations.tolist() == expected, plan.method
        assert spent.tokens.tolist() == [IDS.numel()] * engine.spec.layers
        assert (spent.distinct <= engine.spec.experts).all()
        assert spent.summary()["per_token"] <= engine.spec.original_budget


def test_dropped_experts_are_not_computed(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.skips
    rows: list[int] = []
    original = experts._grouped

    def counting(x: torch.Tensor, *args: Any) -> torch.Tensor:
        rows.append(len(x))
        return original(x, *args)

    monkeypatch.setattr(experts, "_grouped", counting)
    for plan in plans_of(engine):
        rows.clear()
        with engine.using(plan), engine.count() as spent:
            logits(engine, input_ids=IDS)
        assert rows[::2] == spent.activations.tolist(), plan.method  # the first of two products per layer


def test_padding_neither_gets_nor_takes(engine: HFEngine) -> None:
    mask = torch.ones_like(IDS)
    mask[1, 15:] = 0
    mask[3, 6:] = 0
    real = mask.flatten().bool()
    for plan in plans_of(engine):
        with engine.using(plan), engine.count() as spent:
            first = logits(engine, input_ids=IDS, attention_mask=mask)
            padded = torch.where(mask.bool(), IDS, torch.tensor(5))
            second = logits(engine, input_ids=padded, attention_mask=mask)
        torch.testing.assert_close(first.flatten(0, 1)[real], second.flatten(0, 1)[real])
        assert spent.tokens.tolist() == [2 * int(real.sum())] * engine.spec.layers
        if plan.token_rule == "alloc_t":
            once = [int(np.floor(k * int(real.sum()) + 1e-6)) for k in plan.layers]
            assert spent.activations.tolist() == [2 * n for n in once]


def test_decoding_with_a_cache_and_padding_counts_only_real_rows() -> None:
    engine = tiny("olmoe", torch.float32)
    mask = torch.ones_like(IDS)
    mask[0, :10] = 0  # left padding, as in generation
    plan = methods.allocate("alloc-t", engine.spec, engine.fingerprint, 8)
    with engine.using(plan), engine.count() as spent, torch.no_grad():
        cache = engine.model(input_ids=IDS, attention_mask=mask, use_cache=True).past_key_values
        longer = torch.cat([mask, torch.ones(4, 1, dtype=mask.dtype)], 1)
        engine.model(input_ids=IDS[:, :1], attention_mask=longer, past_key_values=cache, use_cache=True)
    assert spent.tokens.tolist() == [int(mask.sum()) + 4] * engine.spec.layers


@pytest.mark.parametrize("family", FAMILIES)
def test_another_models_plan_is_refused(family: str) -> None:
    engine = tiny(family)
    spec = engine.spec
    plan = methods.allocate("uniform", spec, "someone else", spec.layers)
    with pytest.raises(AllocMoEError, match="another model"):
        engine.apply(plan)
    assert engine.plan is None


def test_granite_is_refused_a_plan_and_not_broken_by_one() -> None:
    """Its layer splits its work by K columns, which are no longer all there."""
    config = GraniteMoeConfig(
        vocab_size=96, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    spec = MoESpec.from_config(config)
    engine = HFEngine(model, spec, "granite", "0" * 16)
    before = logits(engine, input_ids=IDS)
    with pytest.raises(AllocMoEError, match="granitemoe layer takes top-k as fixed"):
        engine.apply(methods.allocate("uniform", spec, engine.fingerprint, 2))
    torch.testing.assert_close(logits(engine, input_ids=IDS), before)


def test_skipping_experts_equals_eager_on_ragged_masks(engine: HFEngine) -> None:
    block: Any = next(m for m in engine.model.modules() if any(c is engine.routers[0] for c in m.children()))
    module, generator = block.experts, torch.Generator().manual_seed(1)
    x = torch.randn(13, 32, generator=generator, dtype=torch.float64)
    index = torch.stack([torch.randperm(engine.spec.experts, generator=generator)[:3] for _ in range(13)])
    index[torch.rand(index.shape, generator=generator) < 0.5] = engine.spec.experts
    weights = torch.rand(index.shape, generator=generator, dtype=torch.float64)
    ours = experts.skipping_experts(module, x, index, weights)
    module.config._experts_implementation = "eager"
    torch.testing.assert_close(ours, module(x, index, weights))
    nothing = torch.full_like(index, engine.spec.experts)
    assert not experts.skipping_experts(module, x, nothing, weights).any()
