"""Distillation: its loss against float64, and an interrupted run against one that was not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_llama import SHAPE, ids, llama

from bench.smollm2.block import MaskedBlock
from bench.smollm2.blocks import states
from bench.smollm2.distil import Progress, Recipe, Run, held_out, rate, train
from bench.smollm2.head import ROWS, distance
from bench.smollm2.split import split
from bench.smollm2.texts import Corpus

RECIPE = Recipe(minutes=1e9, steps=6, rows=2, lr=2e-3)


@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_the_distance_and_its_gradient(hard: float) -> None:
    rng = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randn(ROWS + 50, 8, generator=rng) for _ in range(2))
    weight, labels = torch.randn(60, 8, generator=rng), torch.randint(0, 60, (ROWS + 50,), generator=rng)
    mine.requires_grad_()
    found = distance(mine, theirs, weight, labels, hard)
    (2 * found).backward()
    exact = mine.detach().double().requires_grad_()
    log_q, p = (exact @ weight.double().T).log_softmax(-1), (theirs.double() @ weight.double().T).softmax(-1)
    wanted = (1 - hard) * F.kl_div(log_q, p, reduction="batchmean") + hard * F.nll_loss(log_q, labels)
    (2 * wanted).backward()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)


def made() -> Run:
    """A run at its start; every time the same."""
    dense = llama()
    seen = states(dense, ids(8, 32, 1))
    blocks = [split(x, layer.mlp, SHAPE) for layer, x in zip(dense.model.layers, seen, strict=True)]
    return Run(llama(), dense, blocks, RECIPE)


def weights(blocks: list[MaskedBlock]) -> list[torch.Tensor]:
    return [p.detach().clone() for block in blocks for p in block.parameters()]


class Stopped(Corpus):
    """A corpus whose reader is killed at the fifth step."""

    def rows(self, first: int, count: int, seed: int) -> torch.Tensor:
        if first >= 4 * RECIPE.rows:
            raise KeyboardInterrupt
        return super().rows(first, count, seed)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    windows, valid = ids(20, 24, 3), ids(4, 24, 4)
    whole, start = made(), weights(made().blocks)
    train(whole, Corpus(windows), valid, tmp_path / "whole.pt", tmp_path / "whole.jsonl", every=0)
    state, log = tmp_path / "state.pt", tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        train(made(), Stopped(windows), valid, state, log, every=0)
    second = made()
    second.resume(state)
    assert second.progress.step == 4
    train(second, Corpus(windows), valid, state, log, every=0)
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (tmp_path / "whole.jsonl", log)]
    for one, other in zip(*lines, strict=True):
        assert one | {"minutes": 0} == other | {"minutes": 0}
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4, 5, 6]
    for one, other, before in zip(weights(whole.blocks), weights(second.blocks), start, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before)


def test_only_the_blocks_are_trained_and_the_student_comes_closer() -> None:
    run, text = made(), ids(20, 24, 3)
    kept = {name: p.clone() for name, p in run.student.named_parameters() if ".mlp." not in name}
    parent = [p.clone() for p in run.parent.parameters()]
    before = run.loss(text).item()
    for _ in range(6):
        run.step(Corpus(text))
    assert run.loss(text).item() < 0.9 * before
    assert all(torch.equal(p, kept[name]) for name, p in run.student.named_parameters() if name in kept)
    assert all(torch.equal(a, b) for a, b in zip(parent, run.parent.parameters(), strict=True))
    assert run.progress.tokens == 6 * 2 * 24


def test_held_out_perplexity_is_that_of_transformers() -> None:
    model, text = llama(), ids()
    losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in text]
    assert held_out(model, text, batch=2) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(lr=1.0, warmup=0.1, decay=0.5)
    found = [rate(recipe, share) for share in (0, 0.05, 0.2, 0.5, 0.75, 1)]
    assert found == pytest.approx([0.02, 0.52, 1, 1, 0.5, 0.02])
    by_minutes, by_steps = Progress(step=1, minutes=30), Progress(step=3, minutes=30)
    recipe = Recipe(minutes=120, steps=4)
    assert (by_minutes.share(recipe), by_steps.share(recipe)) == (0.25, 0.75)
