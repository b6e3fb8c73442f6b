"""The shapes of the embedded models: routing as in the paper's three models, all widths small.

Widths are bounded by what vLLM's CPU kernels load as well as by the size of the file: hidden sizes
are multiples of 32, expert widths of 8, and MLA needs its full latent rank of 512, so DeepSeek's
latent projections take most of what is not experts and leave room for one head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import DeepseekV2Config, LlamaConfig, OlmoeConfig, Qwen2MoeConfig

VOCAB = 2048
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "max_position_embeddings": 1024, "norm_topk_prob": False,
    "tie_word_embeddings": False, "initializer_range": 0.06,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256,
         "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}  # fmt: skip


def mini_olmoe() -> OlmoeConfig:
    """OLMoE-1B-7B's routing: 16 layers, 64 experts, top-8, no renormalisation."""
    return OlmoeConfig(
        **_COMMON, intermediate_size=16, num_hidden_layers=16, num_attention_heads=2, num_key_value_heads=2,
        num_experts=64, num_experts_per_tok=8, rope_parameters=_ROPE,
    )  # fmt: skip


def mini_qwen() -> Qwen2MoeConfig:
    """Qwen1.5-MoE-A2.7B's: 24 layers, 60 experts, top-4, one shared expert of four times the width."""
    return Qwen2MoeConfig(
        **_COMMON, intermediate_size=256, num_hidden_layers=24, num_attention_heads=2, num_key_value_heads=2,
        moe_intermediate_size=8, shared_expert_intermediate_size=32, num_experts=60, num_experts_per_tok=4,
        rope_parameters=_ROPE,
    )  # fmt: skip


def mini_deepseek() -> DeepseekV2Config:
    """DeepSeek-V2-Lite's: a dense layer, then 26 with 64 experts, top-6 and two shared ones; MLA, YaRN."""
    return DeepseekV2Config(
        **_COMMON, intermediate_size=128, num_hidden_layers=27, num_attention_heads=1, num_key_value_heads=1,
        q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=32, qk_rope_head_dim=64, v_head_dim=32, head_dim=64,
        moe_intermediate_size=8, n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2,
        first_k_dense_replace=1, routed_scaling_factor=1.0, topk_method="greedy", n_group=1, topk_group=1,
        rope_parameters=_YARN,
    )  # fmt: skip


def dense(experts: int = 64) -> LlamaConfig:
    """No router, and in every layer as wide as so many of mini-olmoe's experts: what those are compared with."""
    return LlamaConfig(
        **_COMMON, intermediate_size=16 * experts, num_hidden_layers=16, num_attention_heads=2, num_key_value_heads=2,
        rope_parameters=_ROPE,
    )  # fmt: skip


CONFIGS = {"mini-olmoe": mini_olmoe, "mini-qwen": mini_qwen, "mini-deepseek": mini_deepseek}
TRAINABLE = CONFIGS | {"dense": dense, "dense-active": partial(dense, experts=8)}
