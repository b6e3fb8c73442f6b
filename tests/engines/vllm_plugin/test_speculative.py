"""Speculative decoding: draft tokens that are verified are tokens of the pass, and take their part of its budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allocmoe.methods import allocate
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec, fingerprint
from tests.engines.vllm_plugin import oracle

pytestmark = pytest.mark.vllm
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}
PROMPTS = [[(7 * i + j * j) % 128 for j in range(9 + 5 * i)] for i in range(4)]
TOKENS = 24
K = (3.25, 4.75)  # of every two layers, not whole: so that rounding down shows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.checkpoint("olmoe", tmp_path_factory.mktemp("drafts") / "olmoe")


def made(folder: Path, method: str) -> Plan:
    spec = MoESpec.from_folder(folder)
    return allocate(method, spec, fingerprint(folder), spec.original_budget // 2)


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[Plan]:
    """Plans of rules that decide every token by itself: as many experts for each, and as each needs."""
    uniform = made(folder, "uniform")
    ragged = replace(uniform, token_rule="naee", parameters={"threshold": (0.5,) * 16})
    assert uniform.rule.alone
    assert ragged.rule.alone
    return [uniform, ragged]


def start(folder: Path, **options: Any) -> Any:
    from allocmoe.engines.vllm.engine import VLLMEngine

    return VLLMEngine.load(folder, skip_tokenizer_init=True, max_model_len=128, **options)


def texts(engine: Any, plan: Plan) -> list[list[int]]:
    with engine.using(plan):
        return [list(output.outputs[0].token_ids) for output in engine.generate(PROMPTS, TOKENS)]


@pytest.fixture(scope="module")
def undrafted(folder: Path, alone: list[Plan]) -> list[list[list[int]]]:
    engine = start(folder)
    try:
        return [texts(engine, plan) for plan in alone]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def drafting(folder: Path, undrafted: Any) -> Iterator[Any]:
    """One engine at a time in this process: the other has ended."""
    engine = start(folder, speculative_config=NGRAM)
    yield engine
    engine.close()


def drafts(engine: Any) -> tuple[int, int]:
    """Draft tokens that were verified so far and those of them that were accepted, as vLLM counts them."""
    found = {m.name: m.value for m in engine.llm.get_metrics() if hasattr(m, "value")}
    return tuple(int(found[f"vllm:spec_decode_num_{what}_tokens"]) for what in ("draft", "accepted"))  # type: ignore[return-value]


def test_tokens_decided_by_themselves_come_out_as_without_drafts(
    drafting: Any, alone: list[Plan], undrafted: list[list[list[int]]]
) -> None:
    assert undrafted[0] != undrafted[1], "the plans change nothing"
    for plan, wanted in zip(alone, undrafted, strict=True):
        before = drafts(drafting)
        assert texts(drafting, plan) == wanted
        verified, accepted = (after - was for after, was in zip(drafts(drafting), before, strict=True))
        assert 0 < accepted < verified, "both kinds of drafts must have been there"


def test_drafts_are_tokens_of_the_pass(drafting: Any, folder: Path) -> None:
    """Every pass spends floor(k T) in each layer, where T counts each request's drafts with its token."""
    from vllm import SamplingParams

    plan = replace(made(folder, "alloc-t"), layers=K * 8)
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    llm, passes, rejected = drafting.llm.llm_engine, 0, 0
    with drafting.using(plan), drafting.count():
        for i, prompt in enumerate(PROMPTS):
            llm.add_request(str(i), {"prompt_token_ids": prompt}, sampling)
        tokens = sum(map(len, PROMPTS))
        spent, (verified, accepted) = counts(drafting), drafts(drafting)
        while llm.has_unfinished_requests():
            outputs = llm.step()
            now, drafted = counts(drafting), drafts(drafting)
            if passes:
                tokens = len(outputs) + drafted[0] - verified
            rejected += drafted[0] - verified - (drafted[1] - accepted)
            assert now[0] == [was + tokens for was in spent[0]]
            assert now[1] == [was + math.floor(K[layer % 2] * tokens) for layer, was in enumerate(spent[1])]
            spent, (verified, accepted), passes = now, drafted, passes + 1
    assert 2 < passes < TOKENS, "no draft was accepted"
    assert rejected > 0


def counts(engine: Any) -> tuple[list[int], list[int]]:
    """Tokens and activations of every layer so far."""
    (found,) = engine.llm.collective_rpc("allocmoe_spent")
    return found["tokens"], [sum(layer) for layer in found["load"]]
