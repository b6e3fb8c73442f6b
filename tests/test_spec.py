"""Reading a model's routing shape from real transformers configs, and telling checkpoints apart."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from allocmoe.errors import AllocMoEError
from allocmoe.spec import FAMILIES, PAPER_BUDGETS, MoESpec, fingerprint, model_name

DEEPSEEK = transformers.DeepseekV2Config(
    num_hidden_layers=27,
    first_k_dense_replace=1,
    n_routed_experts=64,
    num_experts_per_tok=6,
    n_shared_experts=2,
    norm_topk_prob=False,
)
QWEN = transformers.Qwen2MoeConfig(
    num_hidden_layers=24,
    num_experts=60,
    num_experts_per_tok=4,
    shared_expert_intermediate_size=5632,
    norm_topk_prob=False,
)
OLMOE = transformers.OlmoeConfig(num_hidden_layers=16, num_experts=64, num_experts_per_tok=8, norm_topk_prob=False)
PAPER = {
    "deepseek": (DEEPSEEK, MoESpec("deepseek_v2", 26, 64, 6, "softmax", False, 2, 1), 156, [130, 104, 78, 52]),
    "qwen": (QWEN, MoESpec("qwen2_moe", 24, 60, 4, "softmax", False, 1, 0), 96, [84, 72, 60, 48]),
    "olmoe": (OLMOE, MoESpec("olmoe", 16, 64, 8, "softmax", False, 0, 0), 128, [112, 96, 80, 64]),
}
OTHERS = [
    (
        transformers.Qwen3MoeConfig(num_hidden_layers=48, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True),
        MoESpec("qwen3_moe", 48, 128, 8, "softmax", True, 0, 0),
    ),
    (
        transformers.MixtralConfig(num_hidden_layers=32, num_local_experts=8, num_experts_per_tok=2),
        MoESpec("mixtral", 32, 8, 2, "softmax", True, 0, 0),
    ),
    (
        transformers.GraniteMoeConfig(num_hidden_layers=24, num_local_experts=32, num_experts_per_tok=8),
        MoESpec("granitemoe", 24, 32, 8, "softmax", True, 0, 0),
    ),
    (
        transformers.DeepseekV3Config(
            num_hidden_layers=61, n_routed_experts=256, num_experts_per_tok=8, first_k_dense_replace=3
        ),
        MoESpec("deepseek_v3", 58, 256, 8, "sigmoid", True, 1, 3),
    ),
    (
        transformers.Glm4MoeConfig(
            num_hidden_layers=46, n_routed_experts=128, num_experts_per_tok=8, first_k_dense_replace=1
        ),
        MoESpec("glm4_moe", 45, 128, 8, "sigmoid", True, 1, 1),
    ),
    (
        transformers.GptOssConfig(num_hidden_layers=24, num_local_experts=32, num_experts_per_tok=4),
        MoESpec("gpt_oss", 24, 32, 4, "softmax", True, 0, 0),
    ),
]


def refused(config: dict, *says: str) -> None:
    with pytest.raises(AllocMoEError) as caught:
        MoESpec.from_config(config)
    assert "\n" not in str(caught.value)
    for word in says:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_models(name: str) -> None:
    config, expected, original, budgets = PAPER[name]
    spec = MoESpec.from_config(config)
    assert spec == expected
    assert spec == MoESpec.from_config(config.to_dict())
    assert spec.original_budget == original
    assert spec.budgets() == budgets
    assert MoESpec(**spec.to_dict()) == spec


@pytest.mark.parametrize(("config", "expected"), OTHERS, ids=lambda x: getattr(x, "model_type", ""))
def test_other_families(config: transformers.PretrainedConfig, expected: MoESpec) -> None:
    assert MoESpec.from_config(config) == expected


def test_every_family_of_the_table_was_tried() -> None:
    tried = {config.model_type for config, _ in OTHERS} | {config.model_type for config, *_ in PAPER.values()}
    assert tried == set(FAMILIES)


@pytest.mark.parametrize("config", [OLMOE, QWEN, DEEPSEEK, *(c for c, _ in OTHERS)], ids=lambda c: c.model_type)
def test_a_saved_checkpoint_reads_as_its_config_does(config: transformers.PretrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    assert MoESpec.from_folder(tmp_path) == MoESpec.from_config(config)


@pytest.mark.parametrize("field", ["num_experts", "num_local_experts"])
def test_qwen3_configs_on_the_hub_and_of_newer_transformers(field: str) -> None:
    values = {"model_type": "qwen3_moe", "num_hidden_layers": 4, field: 16, "num_experts_per_tok": 2}
    assert MoESpec.from_config(values).experts == 16


def test_sparse_steps_and_dense_layers_are_not_counted() -> None:
    values = QWEN.to_dict() | {"num_hidden_layers": 12, "decoder_sparse_step": 2, "mlp_only_layers": [0, 1]}
    spec = MoESpec.from_config(values)  # every second layer from 1, without layer 1
    assert (spec.layers, spec.dense_layers) == (5, 7)
    sparse = [i for i in range(27) if i >= 1 and i % 2 == 0]
    assert MoESpec.from_config(DEEPSEEK.to_dict() | {"moe_layer_freq": 2}).layers == len(sparse)


def test_budgets_of_other_shapes_are_eighths_and_never_below_one_each() -> None:
    assert MoESpec("mixtral", 32, 8, 2, "softmax", True, 0, 0).budgets() == [56, 48, 40, 32]
    assert MoESpec("x", 4, 8, 4, "softmax", True, 0, 0).budgets() == [14, 12, 10, 8]
    assert MoESpec("x", 5, 8, 1, "softmax", True, 0, 0).budgets() == [5]
    # the same L and K with another N is another model
    assert MoESpec("x", 16, 32, 8, "softmax", True, 0, 0).budgets() == [112, 96, 80, 64]
    assert len(PAPER_BUDGETS) == 3


def test_a_dense_model_is_refused() -> None:
    refused(transformers.LlamaConfig().to_dict(), "llama", "no routed experts", "mixture-of-experts")


def test_an_unknown_family_names_its_fields() -> None:
    refused(
        {"model_type": "newmoe", "num_hidden_layers": 4, "n_routed_experts": 8, "num_experts_per_tok": 2},
        "newmoe",
        "not supported",
        "n_routed_experts, num_experts_per_tok",
        "deepseek_v2",
    )
    refused({}, "None")


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_experts", "num_experts_per_tok"])
def test_a_missing_field_is_named(field: str) -> None:
    for values in (OLMOE.to_dict() | {field: None}, {k: v for k, v in OLMOE.to_dict().items() if k != field}):
        refused(values, "olmoe", field)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": "sixteen"},
        {"num_experts": [64]},
        {"num_experts_per_tok": {"a": 1}},
        {"num_experts_per_tok": 61},
        {"num_experts_per_tok": -1},
        {"mlp_only_layers": 3},
        {"mlp_only_layers": list(range(24))},
        {"decoder_sparse_step": "two"},
        {"decoder_sparse_step": 0.5},
        {"num_experts": float("inf")},
        {"num_hidden_layers": float("inf")},
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(change: dict) -> None:
    refused(QWEN.to_dict() | change, "qwen2_moe" if "num_experts_per_tok" not in change else "")


def test_unreadable_folders(tmp_path: Path) -> None:
    cases = {"missing": "no model folder", "empty": "cannot read", "broken": "not valid JSON", "list": "JSON object"}
    cases |= {"nested": "not valid JSON"}
    nested = '{"a": ' * 100_000
    for name, text in (("empty", None), ("broken", '{"model_type": "ol'), ("list", "[1, 2]"), ("nested", nested)):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "config.json").write_text(text)
    for name, says in cases.items():
        with pytest.raises(AllocMoEError, match=says) as caught:
            MoESpec.from_folder(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(AllocMoEError):
        MoESpec.from_folder(tmp_path / "binary")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder of two files of just under 1 MiB, which sixteen blocks of 64 KiB cover."""
    folder = tmp_path / "model"
    OLMOE.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    for i in (1, 2):
        save_file({"w": torch.randn(262_000, generator=generator)}, folder / f"model-0000{i}-of-00002.safetensors")
    return folder


def test_fingerprint_is_the_same_for_a_copy_under_another_name(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "another name")
    mine = fingerprint(checkpoint)
    assert mine == fingerprint(str(tmp_path / "another name"))
    assert len(mine) == 16
    assert int(mine, 16) >= 0


@pytest.mark.parametrize("at", [0, 1, 12_345, 55_555, 99_999, 150_000, 222_222, 261_999])
def test_fingerprint_changes_with_any_one_weight(checkpoint: Path, at: int) -> None:
    before = fingerprint(checkpoint)
    for shard in sorted(checkpoint.glob("*.safetensors")):
        weights = load_file(shard)
        weights["w"][at] += 1e-3
        save_file(weights, shard)
        assert fingerprint(checkpoint) != before
        before = fingerprint(checkpoint)


def test_fingerprint_changes_with_a_fine_tune_of_a_large_file(checkpoint: Path) -> None:
    """Beyond sixteen blocks only samples are read; a change of every weight must show."""
    shard = checkpoint / "model-00001-of-00002.safetensors"
    weights = {"w": torch.zeros(2_000_000)}
    save_file(weights, shard)
    before = fingerprint(checkpoint)
    weights["w"] += 1e-6
    save_file(weights, shard)
    assert fingerprint(checkpoint) != before


def test_fingerprint_changes_with_the_config_but_not_with_the_version_that_saved_it(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}, indent=4))
    assert fingerprint(checkpoint) == before
    (checkpoint / "config.json").write_text(json.dumps(config | {"norm_topk_prob": True}))
    assert fingerprint(checkpoint) != before


def test_fingerprint_of_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    for shard in checkpoint.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(AllocMoEError, match="safetensors"):
        fingerprint(checkpoint)
    with pytest.raises(AllocMoEError, match="no model folder"):
        fingerprint(checkpoint / "nowhere")


def test_a_hub_snapshot_has_its_repositorys_name(tmp_path: Path) -> None:
    """Its folder is named by a commit, which no suite knows."""
    snapshot = tmp_path / "models--allenai--OLMoE-1B-7B-0924" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    assert model_name(snapshot) == Path("allenai/OLMoE-1B-7B-0924").name
    (tmp_path / "link").symlink_to(snapshot)
    assert model_name(tmp_path / "link") == "OLMoE-1B-7B-0924"
    assert model_name(tmp_path / "snapshots" / "mine") == "mine"


def test_a_folder_whose_name_is_not_utf_8_has_one_that_can_be_written(tmp_path: Path) -> None:
    assert model_name(tmp_path / os.fsdecode(b"se\xf1ora")) == r"se\udcf1ora"
