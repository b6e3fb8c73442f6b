"""The embedded models in vLLM: each loads and says what it says in transformers, with a plan and without."""

from __future__ import annotations

import pytest
import torch

from allocmoe import methods, mini
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine

pytestmark = pytest.mark.vllm
torch.set_num_threads(1)


@pytest.mark.parametrize("name", mini.shipped())
def test_the_engines_agree_on_it(name: str) -> None:
    """In float32. A routing decision near a tie may fall either way, and moves a window by less than this."""
    from allocmoe.engines.vllm.engine import VLLMEngine

    there = HFEngine.load(mini.resolve(name))
    text = windows(there.tokenizer, "mini-test", 4, 64).ids
    half = methods.allocate("alloc-t", there.spec, there.fingerprint, there.spec.original_budget // 2)
    plans, expected = (None, half), []
    for plan in plans:
        with there.using(plan):
            expected.append(there.nll(text))
    here = VLLMEngine.load(mini.resolve(name), max_model_len=128)
    try:
        for plan, nll in zip(plans, expected, strict=True):
            with here.using(plan):
                torch.testing.assert_close(here.nll(text), nll, rtol=0, atol=0.05)
    finally:
        here.close()
    assert (expected[0] - expected[1]).abs().max() > 0.5, "the plan changes what it says"
