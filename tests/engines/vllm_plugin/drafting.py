"""Run by test_speculative in a process of its own: an engine without drafts and one with; prints what they did as JSON.

python drafting.py CHECKPOINT SHARED.json ALONE.json ...

Of its own, because the n-gram proposer imports numba, and after that vLLM 0.32 starts no further engine in a process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from allocmoe.engines.vllm.engine import VLLMEngine
from allocmoe.plan import Plan

PROMPTS = [[(7 * i + j * j) % 128 for j in range(9 + 5 * i)] for i in range(4)]
TOKENS = 24
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}


@contextmanager
def engine(folder: str, **options: Any) -> Iterator[VLLMEngine]:
    started = VLLMEngine.load(folder, skip_tokenizer_init=True, max_model_len=128, **options)
    try:
        yield started
    finally:
        started.close()


def continuations(engine: VLLMEngine, plan: Plan) -> list[list[int]]:
    with engine.using(plan):
        return [list(output.outputs[0].token_ids) for output in engine.generate(PROMPTS, TOKENS)]


def drafts(engine: VLLMEngine) -> tuple[int, int]:
    """Draft tokens that were verified so far and those of them that were accepted, as vLLM counts them."""
    found = {m.name: int(m.value) for m in engine.llm.get_metrics() if hasattr(m, "value")}
    return found["vllm:spec_decode_num_draft_tokens"], found["vllm:spec_decode_num_accepted_tokens"]


def passes(engine: VLLMEngine, plan: Plan) -> list[dict[str, Any]]:
    """Sums up to and with each pass: requests in it, drafts so far, and tokens and activations of each layer so far."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    found, llm, before = [], engine.llm.llm_engine, drafts(engine)
    with engine.using(plan), engine.count():
        for i, prompt in enumerate(PROMPTS):
            llm.add_request(str(i), {"prompt_token_ids": prompt}, sampling)
        while llm.has_unfinished_requests():
            requests = len(llm.step())
            (spent,) = engine.llm.collective_rpc("allocmoe_spent")
            verified, accepted = (now - was for now, was in zip(drafts(engine), before, strict=True))
            found.append(
                {
                    "requests": requests, "verified": verified, "accepted": accepted, "tokens": spent["tokens"],
                    "activations": [sum(layer) for layer in spent["load"]],
                }
            )  # fmt: skip
    return found


def main(folder: str, shared: str, alone: list[str]) -> dict[str, Any]:
    plans = [Plan.load(Path(path)) for path in alone]
    with engine(folder) as plain:
        undrafted = [continuations(plain, plan) for plan in plans]
    with engine(folder, speculative_config=NGRAM) as drafting:
        drafted = [continuations(drafting, plan) for plan in plans]
        verified, accepted = drafts(drafting)
        counted = passes(drafting, Plan.load(Path(shared)))
    return {
        "undrafted": undrafted, "drafted": drafted, "verified": verified, "accepted": accepted, "passes": counted
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3:])))
