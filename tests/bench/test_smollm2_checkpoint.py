"""The checkpoint says what the model in training says: in transformers, and in allocmoe's engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llama import SHAPE, folder, ids, llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from allocmoe.engines.hf import HFEngine
from allocmoe.methods import allocate
from bench.smollm2.block import student
from bench.smollm2.blocks import states
from bench.smollm2.checkpoint import write
from bench.smollm2.distil import held_out
from bench.smollm2.split import split


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A split model, none of whose parts is at a special value; and its checkpoint in float32."""
    path = tmp_path_factory.mktemp("checkpoint")
    dense = llama()
    blocks = [
        split(seen, layer.mlp, SHAPE) for layer, seen in zip(dense.model.layers, states(dense, ids(8, 32)), strict=True)
    ]
    torch.manual_seed(2)
    with torch.no_grad():
        for block in blocks:
            for parameter in block.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    model = student(dense, blocks)
    tokenizer = AutoTokenizer.from_pretrained(folder(path / "dense"))
    return model, write(model, tokenizer, path / "model", torch.float32)


def test_transformers_computes_the_same_logits(made: tuple[torch.nn.Module, Path]) -> None:
    model, path = made
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert type(loaded).__name__ == "Qwen2MoeForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids()).logits, model(ids()).logits, rtol=1e-4, atol=1e-4)
    assert len(AutoTokenizer.from_pretrained(path)("a word")["input_ids"]) > 0


def test_the_engine_reads_it_and_obeys_plans(made: tuple[torch.nn.Module, Path]) -> None:
    model, path = made
    engine = HFEngine.load(path)
    assert (engine.spec.experts, engine.spec.top_k, engine.spec.shared) == (4, 2, 1)
    nll = float(engine.nll(ids()).sum()) / (3 * 23)
    assert nll == pytest.approx(torch.tensor(held_out(model, ids())).log().item(), rel=1e-4)
    with engine.using(allocate("uniform", engine.spec, engine.fingerprint, engine.spec.layers)):
        planned = float(engine.nll(ids()).sum()) / (3 * 23)
    for layer in model.model.layers:
        layer.mlp.top_k = 1
    try:
        assert planned == pytest.approx(torch.tensor(held_out(model, ids())).log().item(), rel=1e-4)
    finally:
        for layer in model.model.layers:
            layer.mlp.top_k = SHAPE.top_k
    assert planned != pytest.approx(nll, rel=1e-3)


def test_a_checkpoint_is_replaced_whole(made: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    model, path = made
    tokenizer = AutoTokenizer.from_pretrained(path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").touch()
    write(model, tokenizer, tmp_path / "model")
    assert HFEngine.load(tmp_path / "model").fingerprint
    assert not (tmp_path / "model/old").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
