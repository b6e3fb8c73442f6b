"""In vLLM too: a victim's log-probabilities under a causal plan do not move by one bit, whoever shares its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import oracle
import pytest
import torch

from allocmoe.data.text import Windows
from allocmoe.methods import allocate, needs
from allocmoe.profile.run import kept

pytestmark = [pytest.mark.vllm, pytest.mark.whole]
VOCABULARY, LENGTH = 128, 20


def victim(llm: Any, neighbours: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of a prompt's own tokens, beside each neighbour in turn."""
    from vllm import SamplingParams

    generator = torch.Generator().manual_seed(3)
    own = torch.randint(VOCABULARY, (LENGTH,), generator=generator).tolist()
    asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    found = []
    for other in neighbours:
        answer, _ = llm.generate([{"prompt_token_ids": own}, {"prompt_token_ids": other}], asked, use_tqdm=False)
        found.append([entry[t].logprob for entry, t in zip(answer.prompt_logprobs[1:], own[1:], strict=True)])
    return found


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2"])
def test_no_neighbour_moves_an_answer(family: str, tmp_path: Path) -> None:
    from allocmoe.engines.vllm.engine import VLLMEngine

    folder = oracle.checkpoint(family, tmp_path / family)
    hf = oracle.load(folder)
    generator = torch.Generator().manual_seed(5)
    text = Windows(torch.randint(VOCABULARY, (4, 24), generator=generator), "random tokens")
    names = ("uniform", "alloc-t", "alloc-t-causal", "alloc-moe-causal", "alloc-c-causal")
    known = kept(hf, text, 2, tmp_path / "p.json", quantities=needs(names), progress=False)
    neighbours = torch.randint(VOCABULARY, (6, LENGTH), generator=generator).tolist()
    neighbours += [[token] * LENGTH for token in (0, 7)]
    engine = VLLMEngine.load(folder, skip_tokenizer_init=True)
    moved = {}
    for name in names:
        plan = allocate(name, hf.spec, hf.fingerprint, hf.spec.original_budget // 2, known)
        with engine.using(plan):
            first, *others = victim(engine.llm, neighbours)
        moved[name] = max(abs(a - b) for other in others for a, b in zip(first, other, strict=True))
    engine.close()
    assert moved["alloc-t"] > 1e-3
    assert {name: by for name, by in moved.items() if name != "alloc-t"} == {
        "uniform": 0.0, "alloc-t-causal": 0.0, "alloc-moe-causal": 0.0, "alloc-c-causal": 0.0,
    }  # fmt: skip
