"""Training's experts: the same function and gradients as transformers' own, for any load."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from allocmoe.mini import routed
from allocmoe.mini.configs import CONFIGS

torch.set_num_threads(1)


def tiny(name: str) -> Any:
    """Two or three layers of an embedded model in float32, random weights."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config.num_hidden_layers = 3
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("mlp.gate.weight"):
                parameter.normal_(0.0, config.hidden_size**-0.5)
    routed.attach(model, config.num_experts_per_tok)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_same_logits_and_gradients_as_eager(name: str) -> None:
    model, ids = tiny(name), torch.randint(2, 2000, (2, 40), generator=torch.Generator().manual_seed(1))
    found = {}
    for how in ("eager", routed.NAME):
        model.set_experts_implementation(how)
        model.zero_grad()
        logits = model(ids, use_cache=False).logits
        logits.log_softmax(-1)[..., 7].sum().backward()
        found[how] = [logits.detach(), *(p.grad.clone() for p in model.parameters())]
    for ours, theirs in zip(found[routed.NAME], found["eager"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts_used", [1, 3, 64])
def test_every_choice_has_its_own_row_in_a_block_of_its_expert(experts_used: int) -> None:
    generator = torch.Generator().manual_seed(experts_used)
    chosen = torch.randint(0, experts_used, (50, 4), generator=generator) * (64 // experts_used)
    load = torch.bincount(chosen.flatten(), minlength=64)
    slot, source, owner = routed.places(chosen, load)
    assert len(set(slot.tolist())) == 200
    assert torch.equal(owner[slot // routed.BLOCK], chosen.flatten())
    assert torch.equal(source[slot], torch.arange(200) // 4)
    assert (source == 50).sum() == len(source) - 200  # all other rows are empty


def test_terms_say_how_even_the_routing_is() -> None:
    model = tiny("mini-olmoe")
    model.set_experts_implementation(routed.NAME)
    ids = torch.randint(2, 2000, (4, 64), generator=torch.Generator().manual_seed(2))
    model(ids, use_cache=False)
    balance, spread, idle = routed.terms(model)
    assert 1.0 <= balance < 3.0
    assert 0.5 < spread < 1.0
    assert 0 <= idle < 3 * 64
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
    model(ids, use_cache=False)
    balance, spread, _ = routed.terms(model)
    assert balance.item() == pytest.approx(1.0, abs=1e-4)
    assert spread.item() == pytest.approx(1.0, abs=1e-4)
