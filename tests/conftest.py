"""Tiny random-weight models of the three architectures, in float64, shared by the tests; and tests that need vLLM."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Generator

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, OlmoeConfig, PretrainedConfig, Qwen2MoeConfig

from allocmoe.engines.hf import HFEngine
from allocmoe.spec import MoESpec

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
         "max_position_embeddings": 128, "initializer_range": 0.3}  # fmt: skip


def config(family: str) -> PretrainedConfig:
    if family == "olmoe":
        return OlmoeConfig(**SMALL, num_hidden_layers=4, num_experts=16, num_experts_per_tok=4, intermediate_size=8)
    if family == "qwen2_moe":
        return Qwen2MoeConfig(
            **SMALL, num_hidden_layers=3, num_experts=12, num_experts_per_tok=4, moe_intermediate_size=8,
            shared_expert_intermediate_size=16, norm_topk_prob=False,
        )  # fmt: skip
    return DeepseekV2Config(
        **SMALL, num_hidden_layers=4, first_k_dense_replace=1, n_routed_experts=16, num_experts_per_tok=3,
        n_shared_experts=2, moe_intermediate_size=8, intermediate_size=48, q_lora_rank=None, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, head_dim=8, norm_topk_prob=False,
        routed_scaling_factor=1.0, topk_method="greedy", n_group=1, topk_group=1,
    )  # fmt: skip


FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2")


def tiny(family: str, dtype: torch.dtype = torch.float64) -> HFEngine:
    """A fresh engine on a tiny model; routers are spread out, so that routing is not near a tie."""
    torch.manual_seed(3)
    settings = config(family)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).to(dtype)
    return HFEngine(model, MoESpec.from_config(settings), f"tiny {family}", f"tiny-{family}")


@pytest.fixture(params=FAMILIES)
def engine(request: pytest.FixtureRequest) -> HFEngine:
    return tiny(request.param)


# a folder that is called vllm is found as well, but has no origin
VLLM = getattr(importlib.util.find_spec("vllm"), "origin", None) is not None


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("ALLOCMOE_REQUIRE_CHROMIUM") and not CHROMIUM:
        raise pytest.UsageError(
            "pages must be tested in a browser here and there is none: install Chromium (`apt-get install chromium`)"
        )
    if os.environ.get("ALLOCMOE_REQUIRE_VLLM") and not VLLM:
        raise pytest.UsageError(
            "vLLM must be tested here and is not installed: name an index with CPU builds of torch, "
            'PIP_EXTRA_INDEX_URL="$PYTORCH_CPU_INDEX" make test (docs/serve.md)'
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, so that at the end no process waits long for the others."""
    long = {i.path for i in items if i.get_closest_marker("vllm") or i.get_closest_marker("whole")}
    items.sort(key=lambda item: item.path not in long)
    for item in items:
        if not VLLM and item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))
        if not CHROMIUM and item.get_closest_marker("chromium"):
            item.add_marker(pytest.mark.skip(reason="no Chromium is installed"))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # else pytest's own summary would follow
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    yield
    left_out = sum("vllm" in report.keywords for report in terminalreporter.stats.get("skipped", ()))
    if left_out and not VLLM:
        terminalreporter.write_line(
            f"{left_out} tests of vLLM were left out, because it is not installed; to run them too: "
            'PIP_EXTRA_INDEX_URL="$PYTORCH_CPU_INDEX" make test (docs/serve.md)',
            yellow=True,
        )
