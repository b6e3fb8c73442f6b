"""Random-weight models with the shapes of the paper's three: what speed is measured on.

The full shapes need a GPU. The `-small` ones keep N and K, which decide how many experts a step
touches, and have fewer and narrower layers, so that a CPU can run the protocol in minutes.
`olmoe-medium` has four layers of half of OLMoE's widths: there experts take the time, and not the
calls around them. The `-wide` ones have L, N, K and the shared experts of the embedded models, whose
plans they are timed under, and the embedded models' routing (see `planted`); their experts take most of
the time.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
)
from transformers.initialization import no_init_weights

from allocmoe import documents, mini
from allocmoe.data.text import windows
from allocmoe.engines.hf import DTYPES, HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.measure import planted
from allocmoe.measure.wide import WIDE
from allocmoe.spec import MoESpec


def _olmoe(**small: Any) -> PretrainedConfig:
    full: dict[str, Any] = {
            "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
            "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
            "norm_topk_prob": False}  # fmt: skip
    return OlmoeConfig(**full | small)


def _qwen(**small: Any) -> PretrainedConfig:
    full: dict[str, Any] = {
            "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_key_value_heads": 16, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
            "num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}  # fmt: skip
    return Qwen2MoeConfig(**full | small)


_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 4096,
         "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}  # fmt: skip


def _deepseek(**small: Any) -> PretrainedConfig:
    full: dict[str, Any] = {
            "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27,
            "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "head_dim": 64,
            "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "norm_topk_prob": False, "routed_scaling_factor": 1.0,
            "topk_method": "greedy", "n_group": 1, "topk_group": 1,
            "max_position_embeddings": 163840, "rope_parameters": _YARN}  # fmt: skip
    return DeepseekV2Config(**full | small)


_SMALL = {"vocab_size": 4096, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4,
          "bos_token_id": None, "eos_token_id": None}  # fmt: skip
_WIDE = {**_SMALL, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8}
ROUTED_ON = ("mini-test", 16, 256)  # text, windows and tokens that an embedded model's routing is read from
SHAPES = {
    "olmoe": lambda: _olmoe(),
    "qwen": lambda: _qwen(),
    "deepseek": lambda: _deepseek(),
    "olmoe-small": lambda: _olmoe(**_SMALL, intermediate_size=128, num_hidden_layers=4),
    "olmoe-medium": lambda: _olmoe(
        **{**_SMALL, "hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 8},
        intermediate_size=512, num_hidden_layers=4,
    ),
    "qwen-small": lambda: _qwen(
        **_SMALL, moe_intermediate_size=176, shared_expert_intermediate_size=704, num_hidden_layers=4
    ),
    "deepseek-small": lambda: _deepseek(
        **_SMALL, intermediate_size=1368, moe_intermediate_size=176, num_hidden_layers=5,
        qk_nope_head_dim=64, v_head_dim=64,
    ),
    "olmoe-wide": lambda: _olmoe(**_WIDE, intermediate_size=256),
    "qwen-wide": lambda: _qwen(**_WIDE, moe_intermediate_size=256, shared_expert_intermediate_size=1024),
    "deepseek-wide": lambda: _deepseek(
        **{**_WIDE, "num_attention_heads": 4, "num_key_value_heads": 4},
        intermediate_size=2048, moe_intermediate_size=256, qk_nope_head_dim=32, v_head_dim=32,
    ),
}  # fmt: skip


def build(shape: str, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> HFEngine:
    """An engine on a random-weight model of a shape.

    Routers get weights of standard deviation 1/sqrt(H), so that logits vary by about 1 as in a
    trained model; all else is drawn small enough to stay finite. A wide shape then gets the routing of
    its embedded model. AllocMoEError for an unknown shape.
    """
    if shape not in SHAPES:
        raise AllocMoEError(f"no shape {shape!r}: expected one of {', '.join(SHAPES)}")
    config = SHAPES[shape]()
    torch.manual_seed(seed)
    with torch.device(device), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                gate = name.endswith("mlp.gate.weight")
                parameter.normal_(0.0, config.hidden_size**-0.5 if gate else 0.02)
    model.generation_config = None
    made_of = [{k: v for k, v in config.to_dict().items() if k != "transformers_version"}, seed, dtype]
    home = HFEngine.load(mini.resolve(WIDE[shape])) if shape in WIDE else None
    if home:
        made_of.append({"routing of": home.fingerprint, "on": ROUTED_ON, "fitted on": planted.DRAWN})
    mark = "random-" + documents.digest(made_of)[:9]
    engine = HFEngine(model, MoESpec.from_config(config), f"{shape} (random weights)", mark)
    if home:
        text, count, length = ROUTED_ON
        planted.plant(engine, planted.moments(home, windows(home.tokenizer, text, count, length).ids), seed)
    return engine
