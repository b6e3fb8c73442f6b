"""Rescale and curvature against what a model's own blocks make under the rules, and finite differences of its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.engines.planned import PlannedLayer
from allocmoe.profile.algorithm1 import block_of
from allocmoe.profile.quantities import QUANTITIES, Setting
from allocmoe.profile.quantities.curvature import drawn
from allocmoe.routing import token_rule
from allocmoe.routing.steps import counts_of, table_of

TEXT = Windows(torch.randint(1, 96, (1, 5), generator=torch.Generator().manual_seed(11)), "random")
STEP = 3e-3  # of the largest channel; see test_fisher


def setting(engine: HFEngine, text: Windows = TEXT) -> Setting:
    """Norms that change the order of every token's candidates."""
    norms = torch.rand(engine.spec.layers, engine.spec.experts, generator=torch.Generator().manual_seed(2)) * 3
    return Setting(engine, text, 8, known={"norms": norms.tolist()}, progress=False)


def under(engine: HFEngine, layer: int, rule: str, order: str, k: float) -> PlannedLayer:
    norms = torch.tensor(setting(engine).known["norms"][layer])
    numbers = {"k": k, "k_base": 1} | ({"norms": norms} if order == "contribution" else {})
    return PlannedLayer(token_rule(rule), numbers, engine.spec.top_k, engine.spec.experts)


def inputs(engine: HFEngine) -> list[Tensor]:
    """What each block reads [1, T, H] in the unchanged model."""
    found: list[Tensor] = []
    hooks = [
        block_of(engine, layer).register_forward_pre_hook(lambda _m, args: found.append(args[0]))
        for layer in range(engine.spec.layers)
    ]
    engine.backbone(TEXT.ids)
    for hook in hooks:
        hook.remove()
    return found


def output(engine: HFEngine, layer: int, x: Tensor, rule: Any) -> Tensor:
    """What a block makes [T, H] under a rule, its shared experts left out."""
    block, made = block_of(engine, layer), []
    for own in (rule, lambda w, i, *_: (w * 0, torch.full_like(i, engine.spec.experts))):
        engine.set_layer(layer, own)
        made.append(block(x)[0])
    engine.set_layer(layer, None)
    return made[0] - made[1]


def every(engine: HFEngine) -> list[tuple[str, str, float, int]]:
    return [
        (rule, order, k, at)
        for rule, ks in counts_of(engine.spec.top_k).items()
        for order in ("weight", "contribution")
        for at, k in enumerate(ks)
    ]


@torch.no_grad()
def test_rescale_is_the_least_squares_factor(engine: HFEngine) -> None:
    found, _ = QUANTITIES["rescale"].measure(setting(engine))
    QUANTITIES["rescale"].check(found, engine.spec)
    moved = 0
    for layer, x in enumerate(inputs(engine)):
        full = output(engine, layer, x, None).flatten()
        for rule, order, k, at in every(engine):
            kept = output(engine, layer, x, under(engine, layer, rule, order, k)).flatten()
            expected = np.linalg.lstsq(kept[:, None].numpy(), full.numpy(), rcond=None)[0][0]
            assert found[table_of(rule, order)][at][layer] == pytest.approx(expected, rel=1e-5)
            moved += abs(expected - 1) > 0.01
    assert moved > 10, "nothing is told apart here"


@torch.no_grad()
def loss(engine: HFEngine, layer: int, move: Tensor, labels: Tensor) -> Tensor:
    """Summed NLL of labels [T - 1], for every row of [n, T, H] that is added to a block's output."""
    hook = block_of(engine, layer).register_forward_hook(lambda _m, _a, out: out + move)
    logits = engine.model(input_ids=TEXT.ids.expand(len(move), -1), use_cache=False).logits.log_softmax(-1)
    hook.remove()
    return -logits[:, :-1].gather(-1, labels.expand(len(move), -1)[..., None]).sum((1, 2))


@torch.no_grad()
def test_curvature_is_half_the_mean_squared_change_of_the_loss(engine: HFEngine) -> None:
    own = setting(engine)
    found, _ = QUANTITIES["curvature"].measure(own)
    QUANTITIES["curvature"].check(found, engine.spec)
    logits = engine.model(input_ids=TEXT.ids, use_cache=False).logits[0, :-1]
    labels, tokens = drawn(own.seed)(logits, TEXT.ids[0, 1:]), TEXT.ids.shape[1]
    for layer, x in enumerate(inputs(engine)):
        full = output(engine, layer, x, None)
        for rule, order, k, at in every(engine):
            lacking = output(engine, layer, x, under(engine, layer, rule, order, k)) - full
            each = torch.zeros(tokens, tokens, lacking.shape[1], dtype=lacking.dtype)
            each[range(tokens), range(tokens)] = lacking  # a row for each token, the others left as they are
            step = STEP / max(float(lacking.abs().max()), STEP)
            up, down = (loss(engine, layer, sign * step * each, labels) for sign in (1, -1))
            expected = float(((up - down) / (2 * step)).square().sum()) / 2 / (tokens - 1)
            assert found[table_of(rule, order)][at][layer] == pytest.approx(expected, rel=2e-2, abs=1e-9)


def test_a_seed_decides_and_all_k_cost_nothing(engine: HFEngine) -> None:
    text = Windows(torch.randint(1, 96, (6, 9), generator=torch.Generator().manual_seed(1)), "random")
    first, again = (QUANTITIES["curvature"].measure(setting(engine, text))[0] for _ in range(2))
    assert first == again
    for table in first.values():
        assert np.allclose(table[-1], 0)
        assert (np.array(table)[0] > 0).all()
