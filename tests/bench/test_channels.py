"""A factor for every channel of a layer's output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allocmoe.engines.hf import HFEngine
from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.profile.algorithm1 import block_of
from bench.channels import by_channel, multiplied

pytestmark = pytest.mark.whole
LAYER, K = 3, 2


@torch.no_grad()
def test_factors_are_those_of_a_loop_over_tokens_and_experts() -> None:
    """In float64, from the experts' own weights; uniform top-k, so that what is kept is known."""
    engine = HFEngine.load(resolve("mini-olmoe"))
    spec, block = engine.spec, block_of(engine, LAYER)
    norms = tuple((1.0,) * spec.experts for _ in range(spec.layers))
    plan = replace(allocate("uniform", spec, engine.fingerprint, K * spec.layers), norms=norms)
    ids = torch.randint(2, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    caught = []
    hook = block.register_forward_hook(lambda _module, args, _output: caught.append(args[0].flatten(0, -2)))
    engine.backbone(ids)
    hook.remove()
    up, down = (block.experts.get_parameter(n).double() for n in ("gate_up_proj", "down_proj"))
    top, bottom = torch.zeros(2, caught[0].shape[1], dtype=torch.float64)
    for x, weights, index in zip(caught[0].double(), *block.gate(caught[0])[1:], strict=True):
        full, kept = torch.zeros_like(x), torch.zeros_like(x)
        for place, (w, e) in enumerate(sorted(zip(weights.tolist(), index.tolist(), strict=True), reverse=True)):
            gate, value = (up[e] @ x).chunk(2)
            output = w * (down[e] @ (torch.nn.functional.silu(gate) * value))
            full += output
            kept += output * (place < K)
        top, bottom = top + full * kept, bottom + kept * kept
    found = by_channel(engine, plan, ids)
    assert len(found) == spec.layers
    torch.testing.assert_close(found[LAYER].double(), top / bottom, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_hook_multiplies_the_routed_experts_until_it_is_removed() -> None:
    engine = HFEngine.load(resolve("mini-qwen"))  # its shared expert is left alone
    block = block_of(engine, LAYER)
    x = torch.randn(1, 5, engine.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    before = block(x)
    hook = multiplied(block, torch.zeros(x.shape[-1]))
    shared = block(x)
    hook.remove()
    assert torch.equal(block(x), before)
    expected = torch.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x)
    torch.testing.assert_close(shared, expected)
