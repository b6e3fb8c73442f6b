"""Evaluation and measurement through vLLM: lm-eval's own backend, perplexity, the speed protocol, the verbs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allocmoe import records
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.quality import evaluate
from allocmoe.measure.protocol import Protocol, session
from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.plan import Plan

pytestmark = pytest.mark.vllm
MODEL = resolve("mini-olmoe")
ITEMS = 12


@pytest.fixture(scope="module")
def hf() -> HFEngine:
    return HFEngine.load(MODEL)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any]]:
    """An engine, and lm-eval's own object around the same vLLM."""
    from allocmoe.evaluate.vllm_tasks import load

    engine, lm = load(MODEL)
    yield engine, lm
    engine.close()


def plan(engine: Any, method: str, budget: int) -> Plan:
    return allocate(method, engine.spec, engine.fingerprint, budget)


def test_it_is_lm_evals_own_backend(served: tuple[Any, Any]) -> None:
    from lm_eval.models.vllm_causallms import VLLM

    engine, lm = served
    assert type(lm) is VLLM
    assert lm.model is engine.llm


def test_tasks_come_out_as_in_transformers_under_switched_plans(served: tuple[Any, Any], hf: HFEngine) -> None:
    from allocmoe.evaluate.tasks.suite import TaskSuite

    engine, lm = served
    here, there = TaskSuite(engine, lm=lm), TaskSuite(hf)
    answers = []
    for wanted in (plan(hf, "original", 128), plan(hf, "uniform", 16), plan(hf, "original", 128)):
        with engine.using(wanted), hf.using(wanted):
            one, two = here.run(ITEMS), there.run(ITEMS)
        assert {n: r["ids"] for n, r in one.items()} == {n: r["ids"] for n, r in two.items()}
        pairs = [(a, b) for n in one for a, b in zip(one[n]["correct"], two[n]["correct"], strict=True)]
        assert len(pairs) == 9 * ITEMS
        assert sum(a != b for a, b in pairs) <= 1, "an item may sit on a tie, two may not"
        answers.append([a for a, _ in pairs])
    assert answers[0] == answers[2] != answers[1]


def test_rolling_and_generating_requests(served: tuple[Any, Any], hf: HFEngine) -> None:
    from lm_eval.api.instance import Instance

    engine, lm = served
    text = "Once upon a time there was a little girl who lived in the forest."
    wanted = plan(hf, "uniform", 64)
    with engine.using(wanted), hf.using(wanted):
        (rolled,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
        ids = [lm.prefix_token_id, *hf.tokenizer(text)["input_ids"]]
        assert rolled == pytest.approx(-float(hf.nll(torch.tensor([ids]))), abs=1e-3)
        settings = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
        (written,) = lm.generate_until([Instance("generate_until", {}, ("44 - 38 =", settings), 0)])
        prompt = torch.tensor([hf.tokenizer("44 - 38 =")["input_ids"]])
        longer = hf.model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
        assert written.strip() == hf.tokenizer.decode(longer, skip_special_tokens=True).split("\n")[0].strip()


def test_quality_records_of_both_engines_agree(served: tuple[Any, Any], hf: HFEngine, tmp_path: Path) -> None:
    engine, _ = served
    text, plans = windows(hf.tokenizer, "mini-test", 8, 64), [plan(hf, "original", 128), plan(hf, "alloc-t", 80)]
    here = evaluate(engine, plans, text, tmp_path / "records.jsonl", text_batch=4, progress=False)
    there = evaluate(hf, plans, text, tmp_path / "records.jsonl", text_batch=4, progress=False)
    assert len(records.load(tmp_path / "records.jsonl")) == 4, "one engine's record must not pass for the other's"
    for one, two in zip(here, there, strict=True):
        assert (one.setup["engine"], two.setup["engine"]) == ("vllm", "transformers")
        assert {"vllm", "max_num_seqs", "max_num_batched_tokens", "eager"} <= set(one.setup)
        apart = np.abs(np.subtract(one.samples["nll"], two.samples["nll"]))
        assert (apart > 1e-4).sum() <= 1, "a token may be routed at a tie, which rounding decides"
        assert apart.max() < 1e-2
        assert one.spent["per_layer"] == two.spent["per_layer"]
        assert one.spent["per_token"] == one.budget


def test_a_speed_session(served: tuple[Any, Any], hf: HFEngine) -> None:
    engine, _ = served
    plans = [plan(hf, "original", 128), plan(hf, "uniform", 64), plan(hf, "alloc-t", 80)]
    found = session(engine, plans, Protocol(batch=4, prompt=8, decode=6, warmups=1, runs=3), progress=False)
    for record, wanted in zip(found, plans, strict=True):
        assert (record.method, record.setup["engine"]) == (wanted.method, "vllm")
        assert all(v > 0 for values in record.samples.values() for v in values)
        assert [len(v) for v in record.samples.values()] == [3, 3]
        for phase in ("prefill", "decode"):
            assert record.spent[phase]["per_token"] == wanted.budget
        # 32 tokens of prefill touch more experts than 4 of decode
        assert np.mean(record.spent["prefill"]["distinct_per_layer"]) > np.mean(
            record.spent["decode"]["distinct_per_layer"]
        )


def test_decode_has_as_many_steps_as_asked_for(served: tuple[Any, Any]) -> None:
    engine, _ = served
    tokens = torch.randint(1000, (3, 5 + 7))
    with engine.count() as spent:
        engine.timed(tokens, 5)
    assert set(spent.passes.tolist()) == {1 + 7}
    assert set(spent.tokens.tolist()) == {3 * 5 + 3 * 7}


def test_in_turns_every_plan_has_every_step_once(served: tuple[Any, Any], hf: HFEngine) -> None:
    """Counts are those of runs under one plan where these are exact, and the seconds are those of the steps."""
    engine, _ = served
    plans = [plan(hf, "original", 128), plan(hf, "uniform", 64), plan(hf, "uniform", 32)]
    tokens = torch.randint(1000, (3, 5 + 7), generator=torch.Generator().manual_seed(2))
    with engine.using(plans[2]):
        turns, done = engine.turns(plans, 3, 15), []
        in_force = [router.rule for router in turns.routers]
        found = turns.timed(tokens, 5, 0, lambda: done.append(1))
        assert all(router.rule is rule for router, rule in zip(turns.routers, in_force, strict=True))
        assert in_force[0] is not None
        assert len(done) == len(found) == 3
        assert all(first > 0 and rest > 0 for first, rest in found)
        steps: list[tuple[int, int]] = []
        turns._round(tokens, 5, 0, lambda *what: (steps.append(what), turns.step(3)), lambda: None)
        assert len(steps) == 3 * (1 + 7)
        assert sorted(steps) == sorted([(0, i) for i in range(3)] + [(1, i) for i in range(3)] * 7)
        counts = turns.counted(tokens, 5, (0, 1))
        for wanted, count in zip(plans, counts, strict=True):
            for phase in ("prefill", "decode"):
                assert count[phase]["per_token"] == wanted.budget
                assert max(count[phase]["distinct_per_layer"]) <= hf.spec.experts
        with engine.using(plans[1]):
            alone = engine.counted(tokens, 5)
        assert counts[1]["prefill"] == alone["prefill"], "the same prompts"
    ids = torch.randint(1000, (4, 24), generator=torch.Generator().manual_seed(6))
    with engine.using(plans[1]), hf.using(plans[1]):
        np.testing.assert_allclose(engine.nll(ids), hf.nll(ids), atol=1e-3)


def test_an_interrupted_turn_leaves_no_request(served: tuple[Any, Any], hf: HFEngine) -> None:
    engine, _ = served
    turns = engine.turns([plan(hf, "original", 128)], 2, 10)
    prompts = torch.ones(2, 5, dtype=torch.long)

    def interrupted() -> None:
        with turns.requests(prompts, 4):
            turns.step(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not turns.core.has_unfinished_requests()
    with turns.requests(prompts, 4), pytest.raises(AllocMoEError, match="2 answers to 3"):
        turns.step(3)


def test_a_batch_that_would_be_split_is_refused(served: tuple[Any, Any]) -> None:
    engine, _ = served
    with pytest.raises(AllocMoEError, match="would be split"):
        engine.generate([[5, 6]] * (engine.config.scheduler_config.max_num_seqs + 1), 1)


def test_a_run_that_would_be_shortened_is_refused(served: tuple[Any, Any], hf: HFEngine) -> None:
    engine, _ = served
    longest = engine.config.model_config.max_model_len
    tokens = torch.ones(1, longest, dtype=torch.long)
    turns = engine.turns([plan(hf, "original", 128)], 1, 5)
    for timed in (lambda: engine.timed(tokens, 5), lambda: turns.timed(tokens, 5, 0)):
        with pytest.raises(AllocMoEError, match=f"5 tokens of a prompt and {longest - 4} to generate.*{longest}"):
            timed()
    assert not turns.core.has_unfinished_requests()
    (answer,) = engine.generate([[5] * (longest - 2)], 2)
    assert len(answer.outputs[0].token_ids) == 2, "as long as it may be, and whole"


def test_a_plan_of_another_model_is_refused_and_the_old_one_stays(served: tuple[Any, Any], hf: HFEngine) -> None:
    engine, _ = served
    other = Plan.from_dict(plan(hf, "uniform", 64).to_dict() | {"fingerprint": "another"})
    with engine.using(plan(hf, "uniform", 96)):
        with pytest.raises(AllocMoEError, match="another model"):
            engine.apply(other)
        with pytest.raises(AllocMoEError, match="another model"):
            engine.llm.collective_rpc("allocmoe_apply", args=(other.to_dict(),))
        assert engine.llm.collective_rpc("allocmoe_spent")[0]["budget"] == 96
        as_text = json.dumps(plan(hf, "uniform", 80).to_dict())
        assert "uniform at 80 of 128" in engine.llm.collective_rpc("allocmoe_apply", args=(as_text,))[0]


def run(*args: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "allocmoe.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_bench_and_eval_take_vllm(tmp_path: Path, hf: HFEngine) -> None:
    path = tmp_path / "records.jsonl"
    done = run("bench", "deepseek-small", "--engine", "vllm", "--method", "alloc-t", "--budget", 12, "--decode", 4,
               "--warmups", 0, "--runs", 2, "--records", path, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [r["method"] for r in json.loads(done.stdout.splitlines()[-1])["results"]] == ["original", "alloc-t"]
    plan(hf, "alloc-t", 64).save(tmp_path / "plan.json")
    done = run("eval", "mini-olmoe", "--engine", "vllm", "--plan", tmp_path / "plan.json", "--items", 2, "--windows", 4,
               "--records", path, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert [(r["method"], r["spent"]) for r in results] == [("original", 128.0), ("alloc-t", 64.0)]
    assert {r.setup["engine"] for r in records.load(path)} == {"vllm"}


def test_an_unknown_engine_is_one_line(tmp_path: Path) -> None:
    done = run("eval", "mini-olmoe", "--engine", "vllm", "--dtype", "float13", "--records", tmp_path / "r.jsonl")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "float13" in done.stderr
    done = run("eval", "mini-olmoe", "--engine", "sglang", "--records", tmp_path / "r.jsonl")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: unknown engine 'sglang': expected transformers or vllm"


@pytest.fixture
def as_captured(served: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The engine treated as one that captures graphs: rules are tensors that are changed in place."""
    engine, _ = served
    budgeted = engine.llm.llm_engine.model_executor.driver_worker.worker.allocmoe
    engine.apply(None)
    with monkeypatch.context() as patch:
        patch.setattr(budgeted, "captured", True)
        yield engine
    engine.apply(None)


def test_under_captured_graphs_plans_are_switched_by_their_numbers(as_captured: Any, hf: HFEngine) -> None:
    ids = torch.randint(1000, (4, 24), generator=torch.Generator().manual_seed(6))
    routers = as_captured.llm.llm_engine.model_executor.driver_worker.worker.allocmoe.routers
    first = None
    for wanted in (plan(hf, "alloc-t", 64), plan(hf, "alloc-t", 104), plan(hf, "alloc-t", 64)):
        as_captured.apply(wanted)
        first = first or routers[3].rule
        assert routers[3].rule is first, "a graph would go on using the old one"
        with hf.using(wanted):
            np.testing.assert_allclose(as_captured.nll(ids), hf.nll(ids), atol=1e-3)
    with pytest.raises(AllocMoEError, match="captured with token_rule alloc_t"):
        as_captured.apply(plan(hf, "uniform", 64))
    as_captured.apply(None)
    np.testing.assert_allclose(as_captured.nll(ids), hf.nll(ids), atol=1e-3)
    with pytest.raises(AllocMoEError, match='start it with "count": true'):
        as_captured.llm.collective_rpc("allocmoe_count", args=(True,))


def test_top_p_is_refused_where_weights_are_scaled_elsewhere(
    served: tuple[Any, Any], hf: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = served
    budgeted = engine.llm.llm_engine.model_executor.driver_worker.worker.allocmoe
    document = plan(hf, "uniform", 64).to_dict() | {"token_rule": "top_p", "parameters": {"threshold": [0.3] * 16}}
    budgeted.apply(Plan.from_dict(document))
    monkeypatch.setattr(budgeted, "scaled", True)
    with pytest.raises(AllocMoEError, match="scaled"):
        budgeted.apply(Plan.from_dict(document))
    budgeted.apply(None)


def test_weights_that_were_not_checked_are_said_so(
    served: tuple[Any, Any], hf: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = served
    budgeted = engine.llm.llm_engine.model_executor.driver_worker.worker.allocmoe
    with engine.using(plan(hf, "uniform", 64)):
        assert "not checked" not in budgeted.describe()
        monkeypatch.setattr(budgeted, "mark", None)
        assert ", weights not checked; 16 of 16" in budgeted.describe()
