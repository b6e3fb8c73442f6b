"""The speed protocol: order, input, counts and records of a session. No test looks at how long anything took."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from allocmoe import records
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.measure import protocol, shapes
from allocmoe.measure.protocol import Protocol, measured, session
from allocmoe.methods import METHODS, left_out, sweep
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.spec import PAPER_BUDGETS, MoESpec

pytestmark = pytest.mark.whole

SMALL = Protocol(batch=2, prompt=8, decode=2, warmups=1, runs=3)
BUDGET = 18  # a mean of 4.5 in each of the four layers
torch.set_num_threads(1)  # many small products: more threads only wait for each other


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return shapes.build("olmoe-small")


@pytest.fixture(scope="module")
def plans(engine: HFEngine) -> list[Plan]:
    return sweep(engine, None, ["original", "uniform", "alloc-t"], [BUDGET])


@pytest.fixture(scope="module")
def logged(engine: HFEngine, plans: list[Plan]) -> tuple[list[Record], list[tuple[Plan | None, Tensor, int]]]:
    """Records of one session, and the calls of `timed` behind it."""
    calls: list[tuple[Plan | None, Tensor, int]] = []
    timed = HFEngine.timed

    def noting(engine: HFEngine, tokens: Tensor, prompt: int) -> tuple[float, float]:
        calls.append((engine.plan, tokens.clone(), prompt))
        return timed(engine, tokens, prompt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HFEngine, "timed", noting)
        found = session(engine, plans, SMALL, seed=3, progress=False)
    return found, calls


def test_a_session_gives_one_whole_record_per_plan(engine: HFEngine, plans: list[Plan], logged: Any) -> None:
    found, _ = logged
    assert [(r.method, r.budget, r.plan) for r in found] == [(p.method, p.budget, p.digest) for p in plans]
    assert len({r.setup["session"] for r in found}) == 1
    for record in found:
        assert (record.about, record.fingerprint) == ("speed", engine.fingerprint)
        assert (record.setup["batch"], record.setup["prompt"], record.setup["decode"]) == (2, 8, 2)
        assert (record.setup["warmups"], record.setup["runs"], record.setup["seed"]) == (1, 3, 3)
        assert (record.setup["engine"], record.setup["dtype"], record.setup["device"]) == (
            "transformers", "float32", "cpu",
        )  # fmt: skip
        assert set(record.samples) == {"prefill_s", "decode_s"}
        for values in record.samples.values():
            assert len(values) == SMALL.runs
            assert all(v > 0 for v in values)
        first, rest = sorted(record.samples["prefill_s"]), sorted(record.samples["decode_s"])
        assert record.metrics == pytest.approx(
            {"prefill_ms": first[1] * 1e3, "decode_ms": rest[1] * 1e3, "tpot_ms": rest[1] * 1e3 / 2}
        )
        assert len(record.details["layers"]) == engine.spec.layers
        assert record.details["original_budget"] == engine.spec.original_budget


def test_another_session_has_another_name(engine: HFEngine, plans: list[Plan], logged: Any) -> None:
    (other,) = session(engine, plans[:1], replace(SMALL, warmups=0, runs=1), progress=False)
    assert other.setup["session"] != logged[0][0].setup["session"]


def test_the_order_of_plans_flips_each_round(plans: list[Plan], logged: Any) -> None:
    _, calls = logged
    order = [plan.digest for plan, _, _ in calls]
    forth = [plan.digest for plan in plans]
    assert order == (forth + forth[::-1]) * 2
    assert len(order) == len(plans) * (SMALL.warmups + SMALL.runs)


def test_every_plan_is_fed_the_same_tokens(engine: HFEngine, logged: Any) -> None:
    _, calls = logged
    _, tokens, prompt = calls[0]
    assert tokens.shape == (SMALL.batch, SMALL.prompt + SMALL.decode)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < engine.model.config.vocab_size
    assert tokens.unique().numel() > tokens.numel() // 2
    assert all(torch.equal(tokens, other) and length == prompt == SMALL.prompt for _, other, length in calls)


def test_the_seed_decides_the_tokens(engine: HFEngine, plans: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def noting(_engine: HFEngine, tokens: Tensor, _prompt: int) -> tuple[float, float]:
        seen.append(tokens)
        return 1.0, 1.0

    monkeypatch.setattr(HFEngine, "timed", noting)
    for seed in (0, 0, 1):
        session(engine, plans[:1], replace(SMALL, warmups=0, runs=1), seed, progress=False)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_prefill_and_decode_spend_exactly_the_budget(engine: HFEngine, plans: list[Plan], logged: Any) -> None:
    for plan, record in zip(plans, logged[0], strict=True):
        for phase, tokens in (("prefill", SMALL.batch * SMALL.prompt), ("decode", SMALL.batch)):
            counts = record.spent[phase]
            wanted = [math.floor(k * tokens) / tokens for k in plan.layers]
            assert counts["per_layer"] == pytest.approx(wanted), (plan.method, phase)
            assert counts["per_token"] == pytest.approx(plan.budget)
            assert all(1 <= d <= min(engine.spec.experts, k * tokens + 1e-6) for d, k in zip(
                counts["distinct_per_layer"], plan.layers, strict=True))  # fmt: skip
        assert record.spent["per_token"] == record.spent["decode"]["per_token"]


def test_a_session_leaves_the_engine_as_it_was(engine: HFEngine, logged: Any) -> None:
    assert engine.plan is None
    assert not engine.counting


def test_prefill_and_decode_are_one_pass_over_the_whole(engine: HFEngine) -> None:
    """Decoding with the cache ends where a pass over all tokens ends: no token is skipped or fed twice."""
    tokens = torch.arange(20).view(2, 10) * 37 % 4096
    seen: list[Tensor] = []
    handle = engine.model.register_forward_hook(lambda _m, _a, output: seen.append(output.logits[:, -1]))
    try:
        cache = engine.prefill(tokens[:, :7])
        engine.decode(cache, tokens[:, 7:])
        with torch.inference_mode():
            engine.model(input_ids=tokens)
    finally:
        handle.remove()
    assert len(seen) == 1 + 3 + 1
    torch.testing.assert_close(seen[3], seen[4], rtol=1e-4, atol=1e-4)


def test_measured_knows_a_whole_session_from_a_part(
    engine: HFEngine, plans: list[Plan], logged: Any, tmp_path: Path
) -> None:
    path, found = tmp_path / "records.jsonl", logged[0]
    assert not measured(path, engine, plans, SMALL, 3)
    for record in found[:-1]:
        records.append(path, record)
    assert not measured(path, engine, plans, SMALL, 3)
    assert measured(path, engine, plans[:-1], SMALL, 3)
    # the missing plan, but of another session: not timed under the same conditions
    records.append(path, replace(found[-1], setup={**found[-1].setup, "session": "another"}))
    assert not measured(path, engine, plans, SMALL, 3)
    records.append(path, found[-1])
    assert measured(path, engine, plans, SMALL, 3)
    assert measured(path, engine, plans[1:], SMALL, 3)
    assert not measured(path, engine, plans, SMALL, 4)
    assert not measured(path, engine, plans, replace(SMALL, runs=4), 3)
    assert not measured(path, engine, sweep(engine, None, ["uniform"], [20]), SMALL, 3)


@pytest.mark.parametrize("field", ["batch", "prompt", "decode", "runs"])
def test_a_protocol_needs_at_least_one_of_everything(field: str) -> None:
    with pytest.raises(AllocMoEError, match="at least one"):
        Protocol(**{field: 0})
    with pytest.raises(AllocMoEError, match="at least one"):
        Protocol(warmups=-1)


def test_the_default_protocol_is_the_paper_s() -> None:
    assert Protocol() == Protocol(batch=8, prompt=32, decode=128, warmups=5, runs=10)


def test_plans_of_every_method_and_what_is_left_out(engine: HFEngine) -> None:
    budgets = engine.spec.budgets()
    plans = sweep(engine, protocol.random_profile(engine, list(METHODS)), list(METHODS), budgets)
    assert [p.method for p in plans].count("original") == 1
    assert plans[0].method == "original"
    missing = left_out(list(METHODS), budgets, plans)
    # four layers cannot climb to K = 8 in steps of one and still sum to little
    assert all(m.startswith(("ascending at ", "descending at ")) for m in missing)
    assert len(plans) - 1 + len(missing) == (len(METHODS) - 1) * len(budgets)
    assert not left_out(["original", "uniform"], [BUDGET], sweep(engine, None, ["uniform"], [BUDGET]))


@pytest.mark.parametrize(("name", "budget"), [("ascending", 3), ("ascending", 33), ("uniform", 17.5), ("lexi", 18)])
def test_any_other_impossible_plan_is_an_error(engine: HFEngine, name: str, budget: float) -> None:
    with pytest.raises(AllocMoEError):
        sweep(engine, None, [name], [budget])


@pytest.mark.parametrize(
    ("shape", "layers", "experts", "top_k", "shared", "parameters"),
    [
        ("deepseek", 26, 64, 6, 2, 15.7e9),
        ("qwen", 24, 60, 4, 1, 14.3e9),
        ("olmoe", 16, 64, 8, 0, 6.9e9),
    ],
)
def test_full_shapes_are_the_paper_s_models(
    shape: str, layers: int, experts: int, top_k: int, shared: int, parameters: float
) -> None:
    config = shapes.SHAPES[shape]()
    spec = MoESpec.from_config(config)
    assert (spec.layers, spec.experts, spec.top_k, spec.shared) == (layers, experts, top_k, shared)
    assert not spec.renormalise
    assert tuple(spec.budgets()) == PAPER_BUDGETS[layers, experts, top_k]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.02)
    small = MoESpec.from_config(shapes.SHAPES[f"{shape}-small"]())
    assert (small.experts, small.top_k, small.family) == (experts, top_k, spec.family)


def test_a_shape_is_the_same_for_the_same_seed(engine: HFEngine) -> None:
    again, other = shapes.build("olmoe-small"), shapes.build("olmoe-small", seed=1)
    assert again.fingerprint == engine.fingerprint != other.fingerprint
    ours, theirs = engine.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(engine.routers[0].weight, other.routers[0].weight)


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(AllocMoEError, match="no shape 'mixtral': expected one of olmoe, qwen"):
        shapes.build("mixtral")
