"""The Fisher term against finite differences of the loss in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from allocmoe.data.text import Windows
from allocmoe.engines.hf import HFEngine
from allocmoe.profile import algorithm1
from allocmoe.profile.quantities import fisher as quantity
from allocmoe.profile.quantities.fisher import fisher
from tests.conftest import tiny

WINDOW = torch.randint(1, 96, (1, 4), generator=torch.Generator().manual_seed(11))
STEP = (
    1e-3  # norms and routers of a float64 model work in float32, where smaller ones drown; no route ties so near here
)


@torch.inference_mode()
def slopes(engine: HFEngine, layer: int, ids: torch.Tensor) -> torch.Tensor:
    """Central differences [T - 1, H] of a window's summed loss in every channel of a block's output: a row each."""
    length, width = ids.shape[1] - 1, engine.model.config.hidden_size
    moves = torch.zeros(length * width, length + 1, width, dtype=torch.float64)
    moves[:, :-1] = torch.eye(length * width, dtype=torch.float64).view(-1, length, width)
    rows, losses = ids.expand(len(moves), -1), []
    for sign in (1, -1):

        def move(_module: Any, _args: Any, output: torch.Tensor, sign: int = sign) -> torch.Tensor:
            return output + sign * STEP * moves

        hook = algorithm1.block_of(engine, layer).register_forward_hook(move)
        logits = engine.model(input_ids=rows, use_cache=False).logits.log_softmax(-1)
        hook.remove()
        losses.append(-logits[:, :-1].gather(-1, rows[:, 1:, None]).sum((1, 2)))
    return ((losses[0] - losses[1]) / (2 * STEP)).view(length, width)


def test_it_is_the_mean_squared_slope(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocmoe.engines.head.HEAD_BYTES", {"cpu": 2 * 4 * 96})  # two rows of logits a piece
    found = fisher(engine, Windows(WINDOW, "random"), 1)
    expected = [float(slopes(engine, layer, WINDOW).square().mean()) for layer in range(engine.spec.layers)]
    np.testing.assert_allclose(found, expected, rtol=3e-3)


def test_batches_only_cut_the_text_and_the_mean_is_over_windows(engine: HFEngine) -> None:
    ids = torch.randint(1, 96, (5, 12), generator=torch.Generator().manual_seed(11))
    whole = fisher(engine, Windows(ids, "random"), 5)
    np.testing.assert_allclose(fisher(engine, Windows(ids, "random"), 2), whole, rtol=1e-6)
    each = [fisher(engine, Windows(row[None], "random"), 1) for row in ids]
    np.testing.assert_allclose(np.mean(each, axis=0), whole, rtol=1e-6)


def test_it_leaves_the_model_as_it_was_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny("olmoe", torch.float32)
    text, frozen = Windows(WINDOW, "random"), engine.model.lm_head.weight
    frozen.requires_grad_(False)
    before = [(p.requires_grad, p.clone()) for p in engine.model.parameters()]
    with torch.inference_mode():  # a caller's mode does not matter
        assert all(h > 0 for h in fisher(engine, text, 1))
    monkeypatch.setattr(quantity, "_at_the_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fisher(engine, text, 1)
    for parameter, (wanted, value) in zip(engine.model.parameters(), before, strict=True):
        assert parameter.requires_grad is wanted
        assert parameter.grad is None
        assert torch.equal(parameter, value)
    assert not any(algorithm1.block_of(engine, layer)._forward_hooks for layer in range(engine.spec.layers))


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt
