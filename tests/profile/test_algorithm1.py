"""The fast profiler against Algorithm 1 as printed, and its interruption."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from allocmoe import mini
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.profile import algorithm1
from allocmoe.profile.algorithm1 import Walk, expert_prefixes, fast, naive
from allocmoe.profile.quantities import QUANTITIES, Setting
from allocmoe.profile.quantities.distances import distances
from tests.conftest import tiny

TEXT = Windows(torch.randint(1, 96, (6, 20), generator=torch.Generator().manual_seed(0)), "random")


def test_fast_equals_naive(engine: HFEngine) -> None:
    slow, count = naive(engine, TEXT, 4, progress=False)
    quick, same = fast(engine, TEXT, 4, progress=False)
    layers, top_k = engine.spec.layers, engine.spec.top_k
    assert count == same == layers * (top_k - 1) + 1
    np.testing.assert_allclose(quick, slow, rtol=1e-6)
    assert (slow[1:, 0] == slow[:-1, -1]).all()
    assert (quick[1:, 0] == quick[:-1, -1]).all()


@pytest.mark.whole
def test_fast_equals_naive_on_the_embedded_model_in_float32() -> None:
    """One cell in a few hundred may differ by more than rounding: a token whose router is within a
    rounding error of a tie takes another expert, and the cell moves by that token's loss."""
    engine = HFEngine.load(mini.resolve("mini-olmoe"))
    text = windows(engine.tokenizer, "mini-train", 2, 128)
    slow, _ = naive(engine, text, 2, progress=False)
    quick, _ = fast(engine, text, 2, progress=False)
    apart = np.abs(quick / slow - 1)
    assert np.mean(apart <= 1e-6) >= 0.98
    assert apart.max() < 5e-3


def test_batches_only_cut_the_text(engine: HFEngine) -> None:
    one, _ = fast(engine, TEXT, 6, progress=False)
    many, _ = fast(engine, TEXT, 1, progress=False)
    np.testing.assert_allclose(one, many, rtol=1e-6)


@pytest.mark.parametrize("after", [0, 1, 5, 7])
def test_an_interrupted_profile_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    engine, partial = tiny("olmoe"), tmp_path / "profile.partial"
    whole, _ = fast(engine, TEXT, 3, progress=False)
    original, calls = Walk.branches, 0

    def stopping(self: Walk, layer: int) -> np.ndarray:
        nonlocal calls
        if calls == after:
            raise KeyboardInterrupt
        calls += 1
        return original(self, layer)

    monkeypatch.setattr(Walk, "branches", stopping)
    with pytest.raises(KeyboardInterrupt):
        fast(engine, TEXT, 3, partial, progress=False)
    monkeypatch.setattr(Walk, "branches", original)
    seen: list[int] = []
    monkeypatch.setattr(Walk, "branches", lambda self, layer: (seen.append(layer), original(self, layer))[1])
    resumed, _ = fast(engine, TEXT, 3, partial, progress=False)
    assert np.array_equal(resumed, whole)
    assert len(seen) == 2 * engine.spec.layers - after  # nothing finished is done again
    assert not partial.exists()


def test_a_partial_profile_of_something_else_is_not_used(tmp_path: Path) -> None:
    engine, partial = tiny("olmoe"), tmp_path / "profile.partial"
    state = algorithm1._Partial.load(partial, engine, TEXT, 3)
    state.done, state.original = 4, 1e9
    state.save()
    with_other_batch, _ = fast(engine, TEXT, 2, partial, progress=False)
    np.testing.assert_allclose(with_other_batch, fast(engine, TEXT, 2, progress=False)[0])
    partial.write_text("{")
    with pytest.raises(AllocMoEError, match="damaged"):
        fast(engine, TEXT, 3, partial, progress=False)


def test_prefixes_are_the_block_at_each_k(engine: HFEngine) -> None:
    x = torch.randn(11, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer = engine.spec.layers - 1
    block = algorithm1.block_of(engine, layer)
    with torch.no_grad():
        found = expert_prefixes(engine, layer, block, x)
        nothing = algorithm1.top_k_rule(engine, 1)
        for k in range(1, engine.spec.top_k + 1):
            engine.set_layer(layer, algorithm1.top_k_rule(engine, k))
            whole = block(x[None])[0]
            if k == 1:
                rest = whole - found[:, 0]  # what shared experts add
            torch.testing.assert_close(found[:, k - 1] + rest, whole, rtol=1e-5, atol=1e-6)
    assert nothing.numbers["k"] == 1


def test_profiling_leaves_the_engine_as_it_was(engine: HFEngine) -> None:
    with torch.no_grad():
        before = engine.model(TEXT.ids).logits
        fast(engine, TEXT, 3, progress=False)
        distances(engine, draws=1, tokens=8)
        for name in ("top_p", "naee", "score_threshold"):
            QUANTITIES[name].measure(Setting(engine, TEXT, 3))
        assert torch.equal(engine.model(TEXT.ids).logits, before)


def test_lexi_distances_against_the_blocks_own_outputs(engine: HFEngine) -> None:
    found = distances(engine, draws=2, tokens=16, seed=5)
    generator = torch.Generator().manual_seed(5)
    expected = np.zeros_like(found)
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(16, 32, generator=generator).double()
            for layer in range(engine.spec.layers):
                block = algorithm1.block_of(engine, layer)
                outputs = []
                for k in range(1, engine.spec.top_k + 1):
                    engine.set_layer(layer, algorithm1.top_k_rule(engine, k))
                    outputs.append(block(x[None])[0])
                engine.set_layer(layer, None)
                expected[layer] += [float(torch.linalg.norm(y - outputs[-1])) / 2 for y in outputs]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (found[:, -1] == 0).all()


@pytest.mark.parametrize("name", ["score_threshold", "contribution_threshold"])
def test_score_thresholds_spend_any_budget_in_the_whole_model(engine: HFEngine, name: str) -> None:
    from dataclasses import replace

    from allocmoe import methods
    from allocmoe.routing.threshold import RULE, steps

    text = Windows(torch.randint(1, 96, (40, 25), generator=torch.Generator().manual_seed(4)), "random")
    spec = engine.spec
    norms = torch.rand(spec.layers, spec.experts, generator=torch.Generator().manual_seed(2)).tolist()
    table, _ = QUANTITIES[name].measure(Setting(engine, text, 8, known={"norms": norms}))
    for k, row in zip(steps(spec.top_k), table, strict=True):
        base = methods.allocate("uniform", spec, engine.fingerprint, spec.layers)
        plan = replace(
            base, method="alloc-t-causal", token_rule=RULE.name, layers=(k,) * spec.layers,
            budget=math.ceil(k * spec.layers), parameters={"threshold": row, "k_base": 1},
            norms=norms if name == "contribution_threshold" else (),
        )  # fmt: skip
        with engine.using(plan), engine.count() as spent:
            engine.backbone(text.ids)
        np.testing.assert_allclose(spent.summary()["per_layer"], k, rtol=0.01)


@pytest.mark.parametrize("rule", ["top_p", "naee"])
def test_thresholds_spend_the_budget_in_the_whole_model(engine: HFEngine, rule: str) -> None:
    from dataclasses import replace

    from allocmoe import methods

    text = Windows(torch.randint(1, 96, (40, 25), generator=torch.Generator().manual_seed(4)), "random")
    name = {"top_p": "dynamic-moe", "naee": "naee"}[rule]
    table, _ = QUANTITIES[rule].measure(Setting(engine, text, 8))
    for k in range(1, engine.spec.top_k + 1):
        base = methods.allocate("uniform", engine.spec, engine.fingerprint, k * engine.spec.layers)
        plan = replace(base, method=name, token_rule=rule, parameters={"threshold": table[k - 1]})
        with engine.using(plan), engine.count() as spent:
            engine.backbone(text.ids)
        np.testing.assert_allclose(spent.summary()["per_layer"], k, rtol=0.01)
