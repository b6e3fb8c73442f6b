"""Planted routing: a random model's logits get another model's moments, so it touches as many experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import OlmoeConfig

from allocmoe import mini
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.measure import planted, shapes
from allocmoe.measure.planted import Moments, moments, plant

pytestmark = pytest.mark.whole

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home() -> HFEngine:
    return HFEngine.load(mini.resolve("mini-olmoe"))


@pytest.fixture(scope="module")
def wanted(home: HFEngine) -> Moments:
    return moments(home, windows(home.tokenizer, *shapes.ROUTED_ON).ids)


@pytest.fixture(scope="module")
def thin(wanted: Moments) -> HFEngine:
    """A random model with mini-olmoe's L and N, thinner than the wide shape so that this is quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapes.SHAPES, "thin", lambda: shapes._olmoe(**shapes._SMALL, intermediate_size=16))
        engine = shapes.build("thin")
    assert isinstance(engine.model.config, OlmoeConfig)
    plant(engine, wanted)
    return engine


def held_out(engine: HFEngine) -> Tensor:
    return torch.randint(engine.vocabulary, (16, 128), generator=torch.Generator().manual_seed(5))


def distinct(engine: HFEngine, ids: Tensor) -> float:
    """Experts that the eight tokens at one place of eight windows touch, mean over places and layers; by sets."""
    seen: list[list[list[int]]] = [[] for _ in engine.routers]
    hooks = [
        router.register_forward_hook(lambda _m, _a, output, layer=layer: seen[layer].extend(output[2].tolist()))
        for layer, router in enumerate(engine.routers)
    ]
    try:
        with torch.inference_mode():
            engine.backbone(ids[:8])
    finally:
        for hook in hooks:
            hook.remove()
    length = ids.shape[1]
    sets = [{e for row in layer[place::length] for e in row} for layer in seen for place in range(length)]
    return sum(map(len, sets)) / len(sets)


def test_moments_are_those_of_the_logits(home: HFEngine) -> None:
    ids = windows(home.tokenizer, "mini-test", 3, 64).ids
    found: list[Tensor] = []
    handle = home.routers[5].register_forward_pre_hook(
        lambda router, args: found.append(args[0].flatten(0, -2).double() @ router.weight.double().T)
    )
    with torch.inference_mode():
        for window in ids:
            home.backbone(window[None])
    handle.remove()
    logits = torch.cat(found)
    logits -= logits.mean(1, keepdim=True)
    got = moments(home, ids, batch=2)
    assert got.mean.shape == (16, 64)
    torch.testing.assert_close(got.mean[5], logits.mean(0), rtol=1e-4, atol=1e-4)
    centred = logits - logits.mean(0)
    torch.testing.assert_close(got.covariance[5], centred.T @ centred / (len(logits) - 1), rtol=1e-3, atol=1e-4)


def test_planted_logits_have_the_wanted_moments_on_tokens_that_were_not_seen(thin: HFEngine, wanted: Moments) -> None:
    got = moments(thin, held_out(thin))
    assert (got.mean - wanted.mean).norm() < 0.15 * wanted.mean.norm()
    assert (got.covariance - wanted.covariance).norm() < 0.5 * wanted.covariance.norm()
    traces = got.covariance.diagonal(dim1=1, dim2=2).sum(1) / wanted.covariance.diagonal(dim1=1, dim2=2).sum(1)
    assert ((traces > 0.85) & (traces < 1.2)).all()


def test_a_planted_model_touches_as_many_experts_as_the_trained_one(home: HFEngine, thin: HFEngine) -> None:
    real = distinct(home, windows(home.tokenizer, "mini-test", 8, 128).ids)
    assert distinct(thin, held_out(thin)) == pytest.approx(real, abs=1.0)
    everywhere = 64 * (1 - (1 - 8 / 64) ** 8)
    assert everywhere - real > 1.0, "independent, even choices would touch more: this can fail"


def test_what_it_says_next_depends_on_the_token(thin: HFEngine) -> None:
    """Left to itself, a model that answers all with one token would route its whole batch alike."""
    with torch.inference_mode():
        said = thin.model(input_ids=held_out(thin)).logits.argmax(-1)
    assert said.unique().numel() > said.numel() / 4


def test_moments_of_another_shape_are_refused(thin: HFEngine, wanted: Moments) -> None:
    with pytest.raises(AllocMoEError, match=r"\(15, 64\).*\(16, 64\)"):
        plant(thin, Moments(wanted.mean[1:], wanted.covariance[1:]))


def test_a_direction_without_variance_stays_without() -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    assert torch.equal(planted._root(matrix, 0.5), torch.diag(torch.tensor([2.0, 1.0, 0.0]).double()))
    assert torch.equal(planted._root(matrix, -0.5), torch.diag(torch.tensor([0.5, 1.0, 0.0]).double()))
