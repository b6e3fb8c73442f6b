"""vLLM computes what transformers computes, in float32, for every method at the paper's budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe.data.text import Windows
from allocmoe.methods import METHODS, sweep
from allocmoe.plan import Plan
from allocmoe.profile.run import profile
from tests.engines.vllm_plugin import oracle

pytestmark = pytest.mark.vllm
TOLERANCE = 1e-4
ATTEMPTS = 12
NEAR = 5e-6  # nearer to a tie than this, rounding may decide which expert is kept
CHUNK = 16
GENERATED = 5


def own_pairs(plan: Plan) -> Plan:
    """The same with 1..K pairs in one layer after another."""
    pairs = tuple(1 + layer % plan.top_k for layer in range(len(plan.layers)))
    return replace(plan, parameters={**plan.parameters, "pairs": pairs})


class Pair:
    """The two engines on one checkpoint, and every method's plan at every budget of the paper."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder
        self.started: Any = None
        self.hf = oracle.load(oracle.checkpoint(family, folder))
        text = Windows(torch.randint(128, (2, 24), generator=torch.Generator().manual_seed(9)), "random tokens")
        known = profile(self.hf, text, 2, progress=False)
        spec = self.hf.spec
        beyond = [name for name, row in METHODS.items() if row.rules[1].logits]
        self.plans = sweep(self.hf, known, [n for n in METHODS if n not in beyond], spec.budgets())
        assert len(self.plans) == 1 + 4 * (len(METHODS) - len(beyond) - 1)
        self.plans += sweep(self.hf, known, beyond, spec.budgets()[-1:])[1:]  # one a rule is enough
        assert {plan.token_rule for plan in self.plans} >= set(oracle.MARGINS)
        self.plans += [own_pairs(plan) for plan in self.plans[-len(beyond) :] if "pairs" in plan.parameters]

    @property
    def whole(self) -> Any:
        """A vLLM that takes every prompt in one piece."""
        from allocmoe.engines.vllm.engine import VLLMEngine

        self.started = self.started or VLLMEngine.load(self.folder, skip_tokenizer_init=True, max_model_len=128)
        return self.started

    def close(self) -> None:
        if self.started:
            self.started.close()
        self.started = None


@pytest.fixture(scope="module", params=oracle.FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    found = Pair(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)
    yield found
    found.close()


@pytest.fixture(params=["one of a token rule", pytest.param("all others", marks=pytest.mark.slow)])
def plans(request: pytest.FixtureRequest, pair: Pair) -> list[Plan]:
    """The original, and of every token rule its last method's plan at half of the activations; or all the others."""
    half = min({plan.budget for plan in pair.plans}, key=lambda budget: abs(budget - pair.hf.spec.original_budget / 2))
    few = {plan.token_rule: plan for plan in pair.plans if plan.budget == half}
    chosen = [pair.plans[0], *few.values()]
    return chosen if request.param == "one of a token rule" else [p for p in pair.plans if p not in chosen]


def drawn(attempt: int, count: int) -> list[list[int]]:
    """Random prompts of different lengths, others at every attempt."""
    generator = torch.Generator().manual_seed(attempt)
    lengths = (23, 9, 17, 30)[:count]
    return [torch.randint(128, (n,), generator=generator).tolist() for n in lengths]


def prompt_logprobs(outputs: list[Any]) -> list[list[float]]:
    """Of each request's tokens after the first, generated ones included."""
    found = []
    for output in outputs:
        given = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        values = [choices[token].logprob for token, choices in given]
        done = output.outputs[0]
        values += [c[token].logprob for token, c in zip(done.token_ids, done.logprobs or [], strict=False)]
        found.append(values)
    return found


def worst(found: list[list[float]], wanted: torch.Tensor) -> float:
    return max(
        float((torch.tensor(row, dtype=torch.float64) - wanted[i, : len(row)]).abs().max())
        for i, row in enumerate(found)
    )


def named(plan: Plan) -> str:
    return f"{plan.method} at {plan.budget}"


def test_one_request_at_a_time(pair: Pair, plans: list[Plan]) -> None:
    for plan in plans:
        for attempt in range(ATTEMPTS):
            (prompt,) = drawn(attempt, 1)
            wanted, margin = oracle.logprobs(pair.hf, plan, [prompt], [[0] * len(prompt)])
            if margin > NEAR:
                break
        assert margin > NEAR, f"{named(plan)}: every prompt routes near a tie"
        with pair.whole.using(plan):
            found = prompt_logprobs(pair.whole.generate([prompt], 1, prompt_logprobs=0))
        assert worst([row[: len(prompt) - 1] for row in found], wanted) < TOLERANCE, named(plan)


def test_a_batch_shares_its_budget(pair: Pair, plans: list[Plan]) -> None:
    for plan in plans:
        for attempt in range(ATTEMPTS):
            prompts = drawn(attempt, 4)
            wanted, margin = oracle.logprobs(pair.hf, plan, prompts, [[0] * len(p) for p in prompts])
            if margin > NEAR:
                break
        assert margin > NEAR, f"{named(plan)}: every batch routes near a tie"
        with pair.whole.using(plan), pair.whole.count() as spent:
            outputs = pair.whole.generate(prompts, 1, prompt_logprobs=0)
        found = [row[: len(p) - 1] for row, p in zip(prompt_logprobs(outputs), prompts, strict=True)]
        assert worst(found, wanted) < TOLERANCE, named(plan)
        tokens = sum(map(len, prompts))
        assert spent.tokens.tolist() == [tokens] * pair.hf.spec.layers
        if plan.token_rule in ("top_k", "alloc_t"):
            assert spent.activations.tolist() == [int(k * tokens + 1e-6) for k in plan.layers], named(plan)


def test_whole_budgets_are_spent_to_the_last_activation(pair: Pair, plans: list[Plan]) -> None:
    spec = pair.hf.spec
    tokens = torch.randint(128, (8, 32 + 8), generator=torch.Generator().manual_seed(4))
    for plan in plans:
        if plan.token_rule not in ("top_k", "alloc_t"):
            continue
        with pair.whole.using(plan):
            found = pair.whole.counted(tokens, 32)
            pair.whole.llm.collective_rpc("allocmoe_count", args=(True,))
            pair.whole.nll(tokens[:, :32])
            reported = pair.whole.llm.collective_rpc("allocmoe_spent")[0]
            pair.whole.llm.collective_rpc("allocmoe_count", args=(False,))
        assert (reported["method"], reported["plan"]) == (plan.method, plan.digest)
        assert reported["drift"] == pytest.approx(0, abs=1e-6)
        # with 8 and 256 tokens in a pass, every budget of the paper is a whole number of activations
        assert plan.exact_budget == plan.budget
        for phase in ("prefill", "decode"):
            assert found[phase]["per_token"] == pytest.approx(plan.budget, abs=1e-4), (named(plan), phase)
            assert found[phase]["per_layer"] == pytest.approx(list(plan.layers), abs=1e-5)
            assert max(found[phase]["distinct_per_layer"]) <= spec.experts


def scheduled(engine: Any) -> list[dict[str, int]]:
    """Have every later forward pass of an engine noted: request -> tokens of it in the pass."""
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    steps: list[dict[str, int]] = []
    stock = runner.execute_model

    def noting(output: Any, *args: Any, **kwargs: Any) -> Any:
        if output.num_scheduled_tokens:
            steps.append(dict(output.num_scheduled_tokens))
        return stock(output, *args, **kwargs)

    runner.execute_model = noting
    return steps


def generated(engine: Any, prompts: list[list[int]]) -> list[Any]:
    """Some tokens after each prompt, all tokens' log-probabilities asked for."""
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0.0, max_tokens=GENERATED, ignore_eos=True, detokenize=False, prompt_logprobs=0, logprobs=0
    )
    return engine.llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)


def ran(outputs: list[Any], steps: list[dict[str, int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Every request's tokens that went through the model, and the number of the pass of each."""
    rows = [list(o.prompt_token_ids) + list(o.outputs[0].token_ids)[:-1] for o in outputs]
    order = list(dict.fromkeys(request for step in steps for request in step))
    passes: list[list[int]] = [[] for _ in rows]
    for number, step in enumerate(steps):
        for request, count in step.items():
            passes[order.index(request)] += [number] * count
    assert [len(p) for p in passes] == [len(r) for r in rows], "the last token is generated and never run"
    assert max(sum(step.values()) for step in steps) <= CHUNK
    assert any(len(set(step.values())) > 1 and 1 in step.values() for step in steps), "no mixed batch"
    return rows, passes


def test_chunks_and_mixed_batches(pair: Pair, plans: list[Plan]) -> None:
    """Prompts cut into chunks, beside others that already decode: the batch is what runs together."""
    from allocmoe.engines.vllm.engine import VLLMEngine

    pair.close()
    engine = VLLMEngine.load(
        pair.folder, skip_tokenizer_init=True, max_model_len=128, max_num_batched_tokens=CHUNK, max_num_seqs=4,
        enable_chunked_prefill=True,
    )  # fmt: skip
    steps = scheduled(engine)
    differing = 0
    try:
        for plan in plans:
            for attempt in range(ATTEMPTS):
                steps.clear()
                with engine.using(plan):
                    outputs = generated(engine, drawn(attempt, 4))
                rows, passes = ran(outputs, steps)
                wanted, margin = oracle.logprobs(pair.hf, plan, rows, passes)
                if margin > NEAR:
                    break
            assert margin > NEAR, f"{named(plan)}: every batch routes near a tie"
            found = [row[: len(r) - 1] for row, r in zip(prompt_logprobs(outputs), rows, strict=True)]
            assert worst(found, wanted) < TOLERANCE, named(plan)
            apart, _ = oracle.logprobs(pair.hf, plan, rows, [[i] * len(r) for i, r in enumerate(rows)])
            differing += worst(found, apart) > 10 * TOLERANCE
    finally:
        engine.close()
    least = max(1, sum(plan.token_rule == "alloc_t" for plan in plans) - 1)
    assert differing >= least, "with other batches Alloc-T gives another result: this test could have failed"
