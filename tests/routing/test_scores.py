"""Scores over all experts against the live routers of transformers: their top-K is the router's own choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Glm4MoeConfig,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from allocmoe.engines.hf import scoring_of
from allocmoe.errors import AllocMoEError
from allocmoe.routing.scores import Scoring
from allocmoe.spec import MoESpec

SIZE: dict[str, Any] = {"hidden_size": 32, "num_experts_per_tok": 4, "num_hidden_layers": 2}
GROUPS: dict[str, Any] = {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1}
ROUTERS: dict[str, tuple[Any, PretrainedConfig]] = {
    "olmoe": (OlmoeTopKRouter, OlmoeConfig(**SIZE, num_experts=16)),
    "olmoe, renormalised": (OlmoeTopKRouter, OlmoeConfig(**SIZE, num_experts=16, norm_topk_prob=True)),
    "qwen2_moe": (Qwen2MoeTopKRouter, Qwen2MoeConfig(**SIZE, num_experts=16)),
    "qwen3_moe": (Qwen3MoeTopKRouter, Qwen3MoeConfig(**SIZE, num_experts=16, norm_topk_prob=True)),
    "mixtral": (MixtralTopKRouter, MixtralConfig(**SIZE, num_local_experts=16)),
    "gpt_oss": (GptOssTopKRouter, GptOssConfig(**SIZE, num_local_experts=16)),
    "deepseek_v2": (DeepseekV2TopkRouter, DeepseekV2Config(**SIZE, **GROUPS, topk_method="greedy")),
    "deepseek_v2, groups": (
        DeepseekV2TopkRouter,
        DeepseekV2Config(
            **SIZE, **GROUPS, topk_method="group_limited_greedy", routed_scaling_factor=16.0, norm_topk_prob=True
        ),
    ),
    "deepseek_v3": (DeepseekV3TopkRouter, DeepseekV3Config(**SIZE, **GROUPS, routed_scaling_factor=2.5)),
    "glm4_moe": (Glm4MoeTopkRouter, Glm4MoeConfig(**SIZE, **GROUPS, norm_topk_prob=True, routed_scaling_factor=1.5)),
    "glm4_moe, not renormalised": (Glm4MoeTopkRouter, Glm4MoeConfig(**SIZE, **GROUPS, norm_topk_prob=False)),
}


@pytest.mark.parametrize("name", ROUTERS)
@torch.no_grad()
def test_the_top_k_is_the_routers_own(name: str) -> None:
    cls, config = ROUTERS[name]
    generator = torch.Generator().manual_seed(1)
    router = cls(config)
    for tensor in (*router.parameters(), *router.buffers()):  # the correction bias among them
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
    logits, weights, ids = router(torch.randn(200, 32, generator=generator))
    order, mass = scoring_of(router, MoESpec.from_config(config))(logits, ids)
    assert order.shape == mass.shape == (200, 16)
    chosen = order.topk(4, dim=-1).indices.sort(-1).values
    place = ids.argsort(-1)
    assert torch.equal(chosen, ids.gather(-1, place))
    torch.testing.assert_close(mass.gather(-1, chosen), weights.gather(-1, place))


def test_what_is_not_known_is_refused() -> None:
    for wrong in ({"function": "sqrtsoftplus"}, {"groups": 2, "open_groups": 3}, {"open_groups": 0}):
        with pytest.raises(AllocMoEError) as caught:
            Scoring(**wrong)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
