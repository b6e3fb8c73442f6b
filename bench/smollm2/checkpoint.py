"""A student as a checkpoint of Qwen2-MoE: what transformers, vLLM and allocmoe load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from bench.smollm2.block import MaskedBlock, Shape

COPIED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "tie_word_embeddings", "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


def config(dense: Any, shape: Shape) -> Qwen2MoeConfig:
    """Of the model that a dense Llama of this config becomes."""
    return Qwen2MoeConfig(
        **{name: getattr(dense, name) for name in COPIED}, num_experts=shape.experts, num_experts_per_tok=shape.top_k,
        moe_intermediate_size=shape.width, shared_expert_intermediate_size=shape.shared, norm_topk_prob=False,
        decoder_sparse_step=1, mlp_only_layers=[],
    )  # fmt: skip


def block_tensors(block: MaskedBlock) -> dict[str, Tensor]:
    """The tensors of one MoE block, by their names in transformers."""
    s, n, w = block.shape.shared, block.shape.experts, block.shape.width
    gate, up, down = block.gate.detach(), block.up.detach(), block.down.detach()
    hidden = gate.shape[1]
    return {
        "gate.weight": block.router.detach(),
        "experts.gate_up_proj": torch.cat([m[s:].view(n, w, hidden) for m in (gate, up)], 1),
        "experts.down_proj": block.scale * down[:, s:].view(hidden, n, w).transpose(0, 1),
        "shared_expert.gate_proj.weight": gate[:s],
        "shared_expert.up_proj.weight": up[:s],
        "shared_expert.down_proj.weight": 2 * down[:, :s],  # sigmoid(0) is 1/2
        "shared_expert_gate.weight": block.shared_gate.detach(),
    }


def tensors(student: Any) -> dict[str, Tensor]:
    """All tensors of the checkpoint. The attention of Qwen2-MoE has biases on q, k and v, which are 0 here."""
    found = {name: tensor for name, tensor in student.state_dict().items() if ".mlp." not in name}
    for number, layer in enumerate(student.model.layers):
        before = f"model.layers.{number}"
        found |= {f"{before}.mlp.{name}": tensor for name, tensor in block_tensors(layer.mlp).items()}
        for part in ("q_proj", "k_proj", "v_proj"):
            weight = found[f"{before}.self_attn.{part}.weight"]
            found[f"{before}.self_attn.{part}.bias"] = weight.new_zeros(len(weight))
    return found


def write(student: Any, tokenizer: Any, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a checkpoint folder, whole or not at all, in the place of an earlier one."""
    model = Qwen2MoeForCausalLM(config(student.config, student.model.layers[0].mlp.shape)).to(dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors(student).items()})
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
    return folder
