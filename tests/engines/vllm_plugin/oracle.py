"""The transformers engine as the oracle of vLLM: same batches, same passes, any plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DeepseekV2Config, OlmoeConfig, PretrainedConfig, Qwen2MoeConfig

from allocmoe.engines.hf import HFEngine, Rule
from allocmoe.engines.planned import PlannedLayer
from allocmoe.plan import Plan
from allocmoe.routing import Numbers
from allocmoe.routing.alloc_t import alloc_t
from allocmoe.routing.top_k import top_k

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2")
NARROW: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "initializer_range": 0.15, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}  # fmt: skip


def config(family: str) -> PretrainedConfig:
    """The paper's routing shapes (layers, experts, top-k, shared experts) on narrow layers."""
    if family == "olmoe":
        return OlmoeConfig(
            **NARROW, num_hidden_layers=16, num_experts=64, num_experts_per_tok=8, intermediate_size=32,
            norm_topk_prob=False,
        )  # fmt: skip
    if family == "qwen2_moe":
        return Qwen2MoeConfig(
            **NARROW, num_hidden_layers=24, num_experts=60, num_experts_per_tok=4, moe_intermediate_size=32,
            shared_expert_intermediate_size=64, norm_topk_prob=False,
        )  # fmt: skip
    return DeepseekV2Config(
        **NARROW, num_hidden_layers=27, first_k_dense_replace=1, n_routed_experts=64, num_experts_per_tok=6,
        n_shared_experts=2, moe_intermediate_size=32, intermediate_size=128, q_lora_rank=None, kv_lora_rank=512,
        qk_nope_head_dim=64, qk_rope_head_dim=64, v_head_dim=64, head_dim=64, norm_topk_prob=False,
        routed_scaling_factor=1.0, topk_method="greedy", n_group=1, topk_group=1, rope_parameters=YARN,
    )  # fmt: skip


def checkpoint(family: str, folder: Path) -> Path:
    """A random checkpoint, whose routers are spread out as a trained model's are."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config(family), dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> HFEngine:
    from allocmoe.spec import MoESpec, fingerprint

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return HFEngine(model, MoESpec.from_folder(folder), folder.name, fingerprint(folder))


def _top_k(n: Numbers, scores: Tensor, full: Tensor) -> float:
    k = int(n["k"])
    return 1.0 if k == scores.shape[1] else float((scores[:, k - 1] / scores[:, k] - 1).min())


def _alloc_t(n: Numbers, scores: Tensor, full: Tensor) -> float:
    pool = scores[:, 1:].flatten().sort(descending=True).values
    kept = int(n["k"] * len(scores) + 1e-6) - len(scores)
    return 1.0 if kept in (0, len(pool)) else float(pool[kept - 1] / pool[kept] - 1)


def _cumulative(n: Numbers, scores: Tensor, full: Tensor) -> float:
    return float((scores.cumsum(-1) / n["threshold"] - 1).abs().min())


def _tails(n: Numbers, scores: Tensor, full: Tensor) -> float:
    wide = scores.double()
    shares = 1 - wide.cumsum(-1)[:, :-1] / wide.sum(-1, keepdim=True)
    return float((shares.square() * n["fisher"] / n["threshold"] - 1).abs().min())


def _survivors(n: Numbers, scores: Tensor, full: Tensor) -> float:
    stay, k = full[:, n["kept"] > 0].sort(dim=-1, descending=True).values, scores.shape[1]
    return 1.0 if k == stay.shape[1] else float((stay[:, k - 1] / stay[:, k] - 1).min())


def _last_in(n: Numbers, full: Tensor, opened: Tensor) -> float:
    """Of every token's last pair and the first that it leaves, among the opened experts [N]."""
    ranked, most = full[:, opened].sort(dim=-1, descending=True).values, int(n["pairs"])
    return 1.0 if ranked.shape[1] <= most else float((ranked[:, most - 1] / ranked[:, most] - 1).min())


def _refill(base: Any, kept: Any) -> Any:
    def near(n: Numbers, scores: Tensor, full: Tensor) -> float:
        if len(scores) > n["refill_tokens"]:
            return base(n, scores, full)
        opened = torch.zeros_like(full, dtype=torch.bool)
        opened = opened.scatter(1, full.topk(scores.shape[1]).indices, kept(n, scores)).any(0)
        return min(base(n, scores, full), _last_in(n, full, opened))

    return near


def _cap(n: Numbers, scores: Tensor, full: Tensor) -> float:
    if len(scores) > n["refill_tokens"]:
        return _top_k(n, scores, full)
    sums = full.sum(0).index_fill(0, full.argmax(1), math.inf)
    ranked, count = sums.sort(descending=True), int(n["experts"])
    opened = torch.zeros_like(sums, dtype=torch.bool).index_fill(0, ranked.indices[:count], True) | (sums == math.inf)
    last = 1.0 if count >= len(sums) else float(ranked.values[count - 1] / ranked.values[count] - 1)
    return min(1.0 if math.isnan(last) else last, _last_in(n, full, opened))


MARGINS = {
    "top_k": _top_k,
    "alloc_t": _alloc_t,
    "top_p": _cumulative,
    "naee": lambda n, scores, full: float((scores / scores[:, :1] / n["threshold"] - 1).abs().min()),
    "adapmoe": _tails,
    "xmoe": _cumulative,
    "threshold": lambda n, scores, full: float((scores[:, int(n["k_base"]) :] / n["threshold"] - 1).abs().min()),
    "prune": _survivors,
    "refill": _refill(_top_k, lambda n, scores: top_k(scores, n["k"])),
    "alloc_t_refill": _refill(_alloc_t, lambda n, scores: alloc_t(scores, n["k"], n["k_base"])),
    "cap": _cap,
}


def margin(rule: PlannedLayer, weights: Tensor, logits: Tensor) -> float:
    """How near a rule's decisions over candidates [T, K] and logits [T, N] are to a tie, relative."""
    if rule.rule.name not in MARGINS:
        return _under_noise(rule, weights, logits)
    full = logits.float().softmax(-1)
    return MARGINS[rule.rule.name](rule.numbers, weights.sort(dim=-1, descending=True).values, full)


def _under_noise(rule: PlannedLayer, weights: Tensor, logits: Tensor) -> float:
    """Of any other rule: nothing near if it keeps the same under some draws of relative noise of 1e-5."""
    ids = torch.arange(weights.shape[1]).expand(weights.shape)
    generator = torch.Generator().manual_seed(0)
    kept = rule(weights, ids, None, logits)[1]
    for _ in range(8):
        noise = 1 + 1e-5 * torch.randn(weights.shape, generator=generator)
        if not torch.equal(rule(weights * noise, ids, None, logits)[1], kept):
            return 0.0
    return 1.0


def by_pass(rule: PlannedLayer, passes: Tensor, margins: list[float]) -> Rule:
    """A rule applied to each forward pass's rows alone: `passes` [rows] numbers them, -1 for padding.

    Attention is causal, so one pass over whole sequences with the routing of each chunk decided among
    its own rows computes exactly what the chunks would have, one after another.
    """

    def apply(weights: Tensor, index: Tensor, _valid: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.zeros_like(weights)
        ids = torch.full_like(index, rule.dropped)
        for number in passes.unique().tolist():
            if number < 0:
                continue
            rows = (passes == number).nonzero().squeeze(1)
            some, chosen = rule(weights[rows], index[rows], None, logits[rows])
            margins.append(margin(rule, weights[rows], logits[rows]))
            kept[rows, : some.shape[1]], ids[rows, : some.shape[1]] = some, chosen
        return kept, ids

    return apply


@torch.inference_mode()
def logprobs(
    engine: HFEngine, plan: Plan, rows: Sequence[Sequence[int]], passes: Sequence[Sequence[int]]
) -> tuple[Tensor, float]:
    """Log-probabilities [B, T - 1] of each sequence's tokens after the first, 0 in the padding; and how
    near routing was to a tie, where rounding decides and two right engines may differ.

    `passes` gives for every token of every sequence the number of the forward pass that it was in.
    """
    width = max(map(len, rows))
    ids, numbers = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -1)
    for i, (row, places) in enumerate(zip(rows, passes, strict=True)):
        ids[i, : len(row)], numbers[i, : len(row)] = torch.tensor(row), torch.tensor(places)
    margins: list[float] = []

    def last_candidate(_module: Any, _args: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        scores = output[0][numbers.flatten() >= 0].softmax(-1).sort(descending=True).values
        margins.append(float((scores[:, plan.top_k - 1] / scores[:, plan.top_k] - 1).min()))

    hooks = [router.register_forward_hook(last_candidate) for router in engine.routers]
    for layer in range(engine.spec.layers):
        engine.set_layer(layer, by_pass(PlannedLayer.of(plan, layer), numbers.flatten(), margins))
    logits = engine.model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)
    engine.revert()
    for hook in hooks:
        hook.remove()
    found = logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    return found.masked_fill(numbers[:, 1:] < 0, 0.0), min(margins)
