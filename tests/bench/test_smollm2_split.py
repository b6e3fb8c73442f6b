"""Dense layers cut into experts: nothing is lost while all are active, and each choice against brute force."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_llama import SHAPE, ids, llama

from allocmoe.errors import AllocMoEError
from bench.smollm2.block import MaskedBlock, Shape, student
from bench.smollm2.blocks import Fit, error, fit, states
from bench.smollm2.split import arrange, best_scale, clusters, fit_router, neurons, norms, projections, split, uncut


def read(rows: int = 16) -> tuple[torch.nn.Module, torch.Tensor]:
    """A dense layer, and what it reads on windows of 32 tokens."""
    model = llama()
    return model.model.layers[1].mlp, states(model, ids(rows, 32))[1]


def test_with_every_expert_active_the_split_model_is_the_dense_one() -> None:
    dense, text = llama(), ids()
    wanted = dense(text).logits
    blocks = []
    for layer, seen in zip(dense.model.layers, states(dense, ids(8, 32, 1)), strict=True):
        found = split(seen, layer.mlp, SHAPE)
        with torch.no_grad():  # as `uncut` has it, on the neurons as the split has arranged them
            found.router.zero_()
            found.scale.fill_(SHAPE.experts)
        blocks.append(found)
    for made in (blocks, [uncut(layer.mlp, SHAPE) for layer in dense.model.layers]):
        model = student(copy.deepcopy(dense), made)
        with torch.no_grad():
            few = model(text).logits
            for block in made:
                block.top_k = SHAPE.experts
            torch.testing.assert_close(model(text).logits, wanted, rtol=1e-4, atol=1e-4)
        assert (few - wanted).abs().max() > 1e-2


def test_the_block_is_its_equation() -> None:
    layer, seen = read()
    block = split(seen, layer, SHAPE).double()
    torch.manual_seed(1)
    with torch.no_grad():
        block.shared_gate.normal_(0, 0.1)
    x = seen[:40].double()
    s, w = SHAPE.shared, SHAPE.width
    for row, found in zip(x, block(x), strict=True):
        inner = torch.nn.functional.silu(block.gate @ row) * (block.up @ row)
        wanted = 2 * torch.sigmoid(block.shared_gate @ row) * (block.down[:, :s] @ inner[:s])
        p = (block.router @ row).softmax(0)
        for e in p.argsort(descending=True)[: SHAPE.top_k].tolist():
            mine = slice(s + e * w, s + (e + 1) * w)
            wanted = wanted + block.scale * p[e] * (block.down[:, mine] @ inner[mine])
        torch.testing.assert_close(found, wanted)


def test_shared_neurons_contribute_most_and_clusters_are_even() -> None:
    layer, seen = read()
    gate, up, down = projections(layer)
    contributions = neurons(seen, gate, up).abs() * down.norm(dim=0)
    order = arrange(contributions, SHAPE, 0)
    assert sorted(order.tolist()) == list(range(64))
    energy = contributions.square().sum(0)
    assert energy[order[:32]].min() >= energy[order[32:]].max()


@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_found(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    planted = torch.randperm(24, generator=rng) % 3
    topics = torch.rand(3, 200, generator=rng) ** 4
    found = clusters(topics[planted] + 0.05 * torch.rand(24, 200, generator=rng), 3, seed)
    assert found.bincount().tolist() == [8, 8, 8]
    assert len({(int(a), int(b)) for a, b in zip(found, planted, strict=True)}) == 3


def test_norms_are_those_of_the_outputs() -> None:
    rng = torch.Generator().manual_seed(0)
    active, down = torch.randn(20, 64, generator=rng), torch.randn(32, 64, generator=rng)
    found = norms(active, down, SHAPE)
    for t in range(20):
        for e in range(SHAPE.experts):
            mine = slice(SHAPE.shared + e * SHAPE.width, SHAPE.shared + (e + 1) * SHAPE.width)
            assert found[t, e] == pytest.approx(float((down[:, mine] @ active[t, mine]).norm()), rel=1e-4)


def test_a_router_that_can_be_right_is_right() -> None:
    rng = torch.Generator().manual_seed(0)
    seen, true = torch.randn(4000, 16, generator=rng), torch.randn(6, 16, generator=rng) * 0.5
    logits = seen @ true.T
    router = fit_router(seen, logits.mul(2).exp(), 0.5)  # the square root of these norms is exp(logits)
    assert (router @ seen.T).softmax(0).sub(logits.T.softmax(0)).abs().max() < 0.02


def test_the_scale_is_that_of_least_squares() -> None:
    rng = torch.Generator().manual_seed(0)
    active, down = torch.randn(50, 64, generator=rng), torch.randn(32, 64, generator=rng)
    weights = torch.rand(50, 4, generator=rng) * (torch.rand(50, 4, generator=rng) > 0.5)
    found = best_scale(weights, active, down, SHAPE)
    routed = active[:, 32:].numpy()
    mixed = (routed * np.repeat(weights.numpy(), 8, 1)) @ down[:, 32:].T.numpy()
    whole = routed @ down[:, 32:].T.numpy()
    assert found == pytest.approx(np.linalg.lstsq(mixed.reshape(-1, 1), whole.ravel())[0].item(), rel=1e-4)


def test_a_block_by_itself_comes_closer_to_its_layer() -> None:
    layer, seen = read(128)
    block = split(seen, layer, SHAPE)
    before, after = fit(block, layer, seen, Fit(steps=100, rows=1024, lr=1e-3))
    assert after < 0.97 * before
    kept = seen[-len(seen) // 16 :]
    wanted = layer(kept)
    made = block(kept).detach()
    level = wanted.square().sum(1).median()
    assert after == pytest.approx(float(error(made, wanted, level)), rel=1e-5)


def test_the_error_of_a_row_is_by_its_size() -> None:
    wanted = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = error(wanted + torch.tensor([[1.0, 0.0], [0.0, 2.0]]), wanted, torch.tensor(5.0))
    assert found == pytest.approx((1 / 30 + 4 / 5) / 2)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Shape(4, 8, 2, 40), "has 72 neurons, and the model's layers have 64"),
        (Shape(4, 8, 5, 32), "makes no model"),
        (Shape(4, 8, 2, 36), "no multiple of an expert's 8"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape: Shape, said: str) -> None:
    layer, seen = read()
    with pytest.raises(AllocMoEError, match=said):
        split(seen, layer, shape)
    with pytest.raises(AllocMoEError, match=said):
        MaskedBlock(*projections(layer), torch.zeros(4, 32), 1.0, shape)
