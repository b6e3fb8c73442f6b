"""What a plan cannot be served with: refused before the engine starts, in one sentence that says what to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allocmoe import methods, mini
from allocmoe.engines.vllm import plugin
from allocmoe.engines.vllm.refuse import check_config, model_fingerprint
from allocmoe.engines.vllm.settings import KEY, VARIABLE, Settings
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec, fingerprint

pytestmark = pytest.mark.vllm
MODEL = mini.resolve("mini-olmoe")
Configured = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def made() -> Plan:
    return methods.allocate("alloc-t", MoESpec.from_folder(MODEL), fingerprint(MODEL), 64)


@pytest.fixture
def configure(made: Plan) -> Configured:
    """An engine's config with a plan: this model's, unless another or None is given."""
    from vllm.engine.arg_utils import EngineArgs

    plugin.register()

    def create(plan: Plan | None = made, asked: dict[str, Any] | None = None, **options: Any) -> Any:
        if plan:
            options["additional_config"] = {KEY: {"plan": plan.to_dict(), **(asked or {})}}
        known = {"model": str(MODEL), "dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 64}
        return EngineArgs(**known | options).create_engine_config()

    return create


def refused(create: Callable[[], Any], *says: str) -> None:
    with pytest.raises(AllocMoEError) as caught:
        create()
    message = str(caught.value)
    assert "\n" not in message
    assert not re.search(r"[.!?]\s+[A-Z]", message), f"more than one sentence: {message}"
    for word in says:
        assert word in message


def test_the_models_own_plan_is_taken(configure: Configured) -> None:
    assert configure()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data_parallel_size": 2}, ("data parallelism", "one engine per replica")),
        (
            {"enable_expert_parallel": True, "tensor_parallel_size": 2},
            ("expert parallelism", "expert map", "use tensor parallelism"),
        ),
        ({"enable_lora": True}, ("LoRA", "merge")),
    ],
)
def test_ways_to_run_that_no_plan_survives(
    configure: Configured, options: dict[str, Any], says: tuple[str, ...]
) -> None:
    assert configure(None, **options), "vLLM itself takes it"
    refused(lambda: configure(**options), "a plan cannot be served with", *says)
    live = {KEY: {"live": True}}
    refused(lambda: configure(None, additional_config=live, **options), "a plan cannot be served with", *says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prefill_context_parallel_size": 2}, ("prefill context parallelism", "leave it out")),
        ({"enable_dbo": True}, ("microbatching", "leave it out")),
        ({"ubatch_size": 2}, ("microbatching", "leave it out")),
    ],
)
def test_ways_that_a_cpu_does_not_offer(configure: Configured, changes: dict[str, Any], says: tuple[str, ...]) -> None:
    """vLLM turns these down or off by itself there, so they are set afterwards."""
    config = configure()
    check_config(config, Settings(live=True))
    for name, value in changes.items():
        setattr(config.parallel_config, name, value)
    refused(lambda: check_config(config, Settings(live=True)), "a plan cannot be served with", *says)


def test_expert_parallelism_where_the_kernel_honours_the_expert_map(configure: Configured) -> None:
    """Among the ranks of tensor parallelism all tokens are on every rank; with one rank there is no map."""
    assert configure(enable_expert_parallel=True)
    config = configure()
    config.parallel_config.enable_expert_parallel, config.parallel_config.tensor_parallel_size = True, 2
    refused(lambda: check_config(config, Settings(live=True)), "expert parallelism on a CPU")
    config.device_config.device_type = "cuda"
    check_config(config, Settings(live=True))
    assert not config.parallel_config.use_sequence_parallel_moe, "the ranks would share the tokens out"
    config.parallel_config.data_parallel_size = 2
    assert config.parallel_config.use_sequence_parallel_moe
    refused(lambda: check_config(config, Settings(live=True)), "data parallelism")


def test_the_v2_runner_must_tell_of_padding(configure: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure()
    for runner, skip in (("0", "0"), ("0", "1"), ("1", "1"), ("1", "0")):
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
        monkeypatch.setenv("VLLM_MOE_SKIP_PADDING", skip)
        assert config.use_v2_model_runner is (runner == "1")
        if (runner, skip) != ("1", "0"):
            check_config(config, Settings(live=True))
    refused(
        lambda: check_config(config, Settings(live=True)), "VLLM_MOE_SKIP_PADDING", "V2 model runner", "set it to 1"
    )


@pytest.mark.parametrize("owner", ["aux_output_config", "model_config"])
def test_chosen_experts_cannot_be_returned(configure: Configured, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option's place since vLLM 0.31, and before."""
    config = configure()
    monkeypatch.setattr(getattr(config, owner), "enable_return_routed_experts", True, raising=False)
    refused(lambda: check_config(config, Settings(live=True)), "enable_return_routed_experts", "leave it out")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprint": "0123456789abcdef"}, ("weights", "0123456789abcdef")),
        ({"family": "qwen2_moe"}, ("family", "qwen2_moe", "olmoe")),
        ({"experts": 60}, ("experts 60", "64")),
        ({"layers": (4.0,) * 8}, ("MoE layers 8", "16")),
        ({"top_k": 6}, ("top-k 6", "8")),
    ],
)
def test_another_models_plan(configure: Configured, made: Plan, changes: dict[str, Any], says: tuple[str, ...]) -> None:
    refused(lambda: configure(replace(made, **changes)), "another model", "allocmoe allocate", *says)


def test_any_weights_lets_other_weights_pass_but_not_another_shape(configure: Configured, made: Plan) -> None:
    other = replace(made, fingerprint="0123456789abcdef")
    assert configure(other, {"any_weights": True})
    for changes in ({"family": "qwen2_moe"}, {"experts": 60}, {"layers": (4.0,) * 8}, {"top_k": 6}):
        wrong = replace(other, **changes)
        refused(lambda plan=wrong: configure(plan, {"any_weights": True}), "another model")


def test_a_k_that_the_user_overrides(configure: Configured) -> None:
    """The plan was made for K = 8; a budget over fewer candidates would be another one."""
    refused(lambda: configure(hf_overrides={"num_experts_per_tok": 4}), "top-k 8", "4", "allocmoe allocate")


def test_a_dense_model(configure: Configured, tmp_path: Path) -> None:
    from transformers import Qwen2Config

    dense = Qwen2Config(
        vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    dense.save_pretrained(tmp_path)
    assert configure(None, model=str(tmp_path))
    refused(lambda: configure(model=str(tmp_path)), "qwen2", "no routed experts", "mixture-of-experts")
    live = {KEY: {"live": True}}
    refused(lambda: configure(None, additional_config=live, model=str(tmp_path)), "no routed experts")


def named(model: str) -> Any:
    return SimpleNamespace(model_config=SimpleNamespace(model=model, revision=None))


def test_the_fingerprint_is_of_the_weights_that_are_named(configure: Configured, tmp_path: Path) -> None:
    assert model_fingerprint(configure()) == fingerprint(MODEL)
    copy = shutil.copytree(MODEL, tmp_path / "copy")
    assert model_fingerprint(configure(model=str(copy))) == fingerprint(MODEL)
    changed = json.loads((copy / "config.json").read_text()) | {"rms_norm_eps": 1e-6}
    (copy / "config.json").write_text(json.dumps(changed))
    assert model_fingerprint(named(str(copy))) != fingerprint(MODEL)


def test_weights_that_are_not_here_have_no_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert model_fingerprint(named("allocmoe/no-such-model")) is None
    assert model_fingerprint(named("not a name/of/the hub")) is None
    shutil.copy(MODEL / "config.json", tmp_path)
    assert model_fingerprint(named(str(tmp_path))) is None  # a config without weights


def test_a_cached_model_of_the_hub_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit, repo = "0" * 40, tmp_path / "models--allocmoe--mini-olmoe"
    shutil.copytree(MODEL, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    assert model_fingerprint(named("allocmoe/mini-olmoe")) == fingerprint(MODEL)
