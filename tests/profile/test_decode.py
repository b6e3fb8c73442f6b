"""The decode profile against plans that really run, position by position, with experts and pairs counted in loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteMoeConfig

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.methods import allocate
from allocmoe.profile.quantities import QUANTITIES, Setting, decode
from allocmoe.profile.run import profile
from allocmoe.spec import MoESpec
from tests.conftest import tiny
from tests.engines.loops import kept_by_hand

TEXT = Windows(torch.randint(1, 96, (7, 6), generator=torch.Generator().manual_seed(0)), "random")
BATCH = 3


def measured(engine: HFEngine, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    setting = replace(Setting(engine, TEXT, 2, progress=False, decode_batch=BATCH), **changes)
    value, facts = QUANTITIES["decode"].measure(setting)
    QUANTITIES["decode"].check(value, engine.spec)
    return value, facts


def measured_pairs(engine: HFEngine, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    setting = replace(Setting(engine, TEXT, 2, progress=False, decode_batch=BATCH), **changes)
    known = {"decode": QUANTITIES["decode"].measure(setting)[0]}
    value, facts = QUANTITIES["decode_pairs"].measure(replace(setting, known=known))
    QUANTITIES["decode_pairs"].check(value, engine.spec)
    return value, facts


@torch.no_grad()
def really(engine: HFEngine, layer: int, k: int, most: int | None = None) -> tuple[float, float, float]:
    """Mean NLL, distinct experts and pairs of a pass with one layer refilled over top-k up to `most` pairs: a plan in
    force, every window decoded token by token with a cache; what its router says goes through the loops of the token
    rule."""
    spec = engine.spec
    oea = allocate("oea", spec, engine.fingerprint, spec.original_budget)
    layers = tuple(k if i == layer else spec.top_k for i in range(spec.layers))
    plan = replace(oea, layers=layers, parameters={**oea.parameters, "pairs": most or spec.top_k})
    losses: list[float] = []
    distinct, pairs = [], []
    offered: list[Any] = []
    router = engine.routers[layer]
    # runs before the engine's own hook, so it sees what the plan is applied to
    hook = router.register_forward_hook(lambda _m, _a, output: offered.append(output), prepend=True)
    try:
        with engine.using(plan):
            for rows in (TEXT.ids[:3], TEXT.ids[3:6]):
                cache = None
                for position in range(rows.shape[1]):
                    output = engine.model(rows[:, position : position + 1], past_key_values=cache, use_cache=True)
                    cache = output.past_key_values
                    logits, weights, ids = offered.pop()
                    kept = kept_by_hand(weights, ids, plan, layer=layer, logits=logits)
                    distinct.append(len({expert for row in kept for expert in row}))
                    pairs.append(sum(map(len, kept)))
                    if position + 1 < rows.shape[1]:
                        chances = output.logits[:, -1].double().log_softmax(-1)
                        losses += [-float(chances[b, int(rows[b, position + 1])]) for b in range(len(rows))]
    finally:
        hook.remove()
    return float(np.mean(losses)), float(np.mean(distinct)), float(np.mean(pairs))


def test_it_is_what_plans_do_that_really_run(engine: HFEngine) -> None:
    value, facts = measured(engine)
    spec = engine.spec
    assert (value["batch"], value["passes"]) == (BATCH, 12), "the seventh window has no whole batch"
    assert facts == {"evaluations": spec.layers * (spec.top_k - 1) + 1, "windows": 6, "window": 6}
    for layer in range(spec.layers):
        for k in range(1, spec.top_k + 1):
            loss, distinct, pairs = really(engine, layer, k)
            assert value["loss"][layer][k - 1] == pytest.approx(loss, rel=1e-6)
            assert value["distinct"][layer][k - 1] == pytest.approx(distinct, abs=1e-12)
            assert value["pairs"][layer][k - 1] == pytest.approx(pairs, abs=1e-12)


def test_layers_below_k_differ_from_the_model_and_fewer_experts_are_touched() -> None:
    """So the comparison above can fail."""
    value, _ = measured(tiny("olmoe"))
    loss, distinct, pairs = (np.array(value[name]) for name in ("loss", "distinct", "pairs"))
    assert np.ptp(loss[:, -1]) == 0
    assert (abs(loss[:, :-1] - loss[:, -1:]) > 1e-6).all()
    assert (np.diff(distinct, axis=1) > 0).all()
    assert (pairs[:, -1] == BATCH * 4).all()
    assert (pairs[:, 1] > BATCH * 2).all(), "refill keeps more than the base"


def test_whole_passes_say_the_same(engine: HFEngine) -> None:
    fast, slow = measured(engine)[0], measured(engine, naive=True)[0]
    for name in fast:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-6)


def test_fewer_pairs_than_k_are_what_plans_do_that_really_run(engine: HFEngine) -> None:
    value, facts = measured_pairs(engine)
    spec, decode_alone = engine.spec, measured(engine)[0]
    assert (value["batch"], value["passes"]) == (BATCH, 12)
    assert facts["evaluations"] == spec.layers * spec.top_k * (spec.top_k - 1) // 2
    loss, pairs = np.array(value["loss"]), np.array(value["pairs"])
    for table, name in ((loss, "loss"), (pairs, "pairs")):
        np.testing.assert_array_equal(table[:, :, -1], decode_alone[name])
        for k in range(1, spec.top_k + 1):
            np.testing.assert_array_equal(table[:, k - 1, : k - 1], np.repeat(table[:, k - 1, [k - 1]], k - 1, axis=1))
            np.testing.assert_array_equal(pairs[:, k - 1, k - 1], [k * BATCH] * spec.layers, "top-k alone")
    for layer in range(spec.layers):
        for k, most in ((1, 1), (1, spec.top_k - 1), (2, 2), (spec.top_k - 1, spec.top_k - 1)):
            wanted, distinct, count = really(engine, layer, k, most)
            assert loss[layer, k - 1, most - 1] == pytest.approx(wanted, rel=1e-6)
            assert pairs[layer, k - 1, most - 1] == pytest.approx(count, abs=1e-12)
            assert decode_alone["distinct"][layer][k - 1] == pytest.approx(distinct, abs=1e-12), "whatever K' is"


def test_fewer_pairs_by_whole_passes_say_the_same(engine: HFEngine) -> None:
    fast, slow = measured_pairs(engine)[0], measured_pairs(engine, naive=True)[0]
    for name in fast:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-6)
    loss, pairs = np.array(fast["loss"]), np.array(fast["pairs"])
    assert (abs(np.diff(loss[:, 0, :3], axis=1)) > 1e-9).all(), "three tokens open up to three experts"
    assert (np.diff(pairs[:, 0], axis=1) >= 0).all()
    assert (pairs[:, 0, 1] > pairs[:, 0, 0]).all(), "refill keeps more than the base"


def test_one_sequence_alone_has_nothing_to_refill_from() -> None:
    engine = tiny("qwen2_moe")
    value, _ = measured(engine, decode_batch=1)
    wanted = [list(range(1, engine.spec.top_k + 1))] * engine.spec.layers
    assert value["distinct"] == value["pairs"] == wanted
    assert value["passes"] == 42


def test_long_windows_are_cut_so_that_a_batch_of_them_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(tiny("olmoe"), TEXT, 2, progress=False, decode_batch=BATCH)
    for tokens, windows, length in ((1000, 6, 6), (18, 3, 6), (12, 3, 4), (1, 3, 2)):
        monkeypatch.setattr(decode, "TOKENS", tokens)
        assert torch.equal(decode.decode_text(setting), TEXT.ids[:windows, :length])
    few = replace(setting, decode_batch=50)
    assert decode.batch_of(few) == len(decode.decode_text(few)) == 7, "all windows there are"
    with pytest.raises(AllocMoEError, match="at least 1"):
        decode.batch_of(replace(setting, decode_batch=0))


def test_another_batch_is_measured_anew_and_nothing_else() -> None:
    engine, names = tiny("olmoe", torch.float32), ["decode_pairs", "distances"]
    known = profile(engine, TEXT, 2, quantities=names, progress=False, decode_batch=2)
    assert profile(engine, TEXT, 2, quantities=names, known=known, progress=False, decode_batch=2) == known
    again = profile(engine, TEXT, 2, quantities=names, known=known, progress=False, decode_batch=4)
    for name in ("decode", "decode_pairs"):
        assert (known.quantities[name]["batch"], again.quantities[name]["batch"]) == (2, 4)
    assert again.quantities["distances"] is known.quantities["distances"]


@pytest.mark.parametrize("naive", [False, True])
def test_it_leaves_the_model_under_the_plan_that_was_in_force(naive: bool) -> None:
    engine = tiny("deepseek_v2")
    alone, _ = measured(engine, naive=naive)
    plan = allocate("uniform", engine.spec, engine.fingerprint, engine.spec.layers)
    with torch.no_grad(), engine.using(plan):
        before = engine.model(TEXT.ids).logits
        assert measured(engine, naive=naive)[0] == alone
        assert engine.plan == plan
        assert not engine.counting
        assert torch.equal(engine.model(TEXT.ids).logits, before)
    assert math.isfinite(alone["loss"][0][0])


def test_a_router_that_no_plan_can_change_is_refused() -> None:
    config = GraniteMoeConfig(
        vocab_size=96, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    engine = HFEngine(AutoModelForCausalLM.from_config(config), MoESpec.from_config(config), "granite", "0" * 16)
    with pytest.raises(AllocMoEError, match="granitemoe"):
        measured(engine)
