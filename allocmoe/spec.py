"""MoESpec: what the allocation needs to know of a model, read from its Hugging Face config."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError, shown


@dataclass(frozen=True)
class MoESpec:
    """The routing shape of a model.

    Attributes:
        family: the config's `model_type`.
        layers: L, the number of MoE layers.
        experts: N, routed experts per layer.
        top_k: K, experts the model itself activates per token and layer.
        scoring: how combine weights come from router logits: "softmax", "sigmoid", or "grouped softmax", where only
            experts of some groups may be chosen.
        renormalise: whether the K weights are made to sum to one.
        shared: shared experts per layer; always active and outside every budget.
        dense_layers: decoder layers without experts.
    """

    family: str
    layers: int
    experts: int
    top_k: int
    scoring: str
    renormalise: bool
    shared: int
    dense_layers: int

    @property
    def original_budget(self) -> int:
        """B of the unchanged model, L * K activations per token."""
        return self.layers * self.top_k

    def budgets(self) -> list[int]:
        """Four budgets: the paper's means per layer for its three (N, K), else 7/8, 6/8, 5/8, 4/8 of L*K."""
        for (layers, experts, top_k), budgets in PAPER_BUDGETS.items():
            if (experts, top_k) == (self.experts, self.top_k):
                return [max(self.layers, b * self.layers // layers) for b in budgets]
        found = {max(self.layers, math.floor(self.original_budget * e / 8)) for e in (7, 6, 5, 4)}
        return sorted(found, reverse=True)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | Any) -> MoESpec:
        """Read a config mapping, or any object with `to_dict()`.

        Raises AllocMoEError for a dense model, an unknown family (naming the fields that a known
        one has), or a known family whose config lacks a field.
        """
        values = dict(config) if isinstance(config, Mapping) else config.to_dict()
        name = values.get("model_type")
        family = FAMILIES.get(str(name))
        if family is None:
            known = {field for f in FAMILIES.values() for field in (f.experts, f.top_k)}
            if not any(values.get(field) for field in known):
                raise AllocMoEError(
                    f"model type {shown(name)} has no routed experts: none of {', '.join(sorted(known))} is in its "
                    "config; expected a mixture-of-experts model"
                )
            raise AllocMoEError(
                f"model type {shown(name)} is not supported; its config has "
                f"{', '.join(sorted(f for f in known if values.get(f)))} but its router is not known here. "
                f"Supported: {', '.join(FAMILIES)}"
            )
        values[family.experts] = values.get(family.experts) or values.get("num_local_experts")
        missing = [f for f in ("num_hidden_layers", family.experts, family.top_k) if not values.get(f)]
        if missing:
            raise AllocMoEError(f"the config of this {name} model lacks {', '.join(missing)}")
        try:
            total, moe = int(values["num_hidden_layers"]), len(family.moe_layers(values))
            spec = cls(
                family=str(name),
                layers=moe,
                experts=int(values[family.experts]),
                top_k=int(values[family.top_k]),
                scoring="grouped softmax" if values.get("topk_method") == GROUPED else family.scoring,
                renormalise=family.renormalise(values),
                shared=family.shared(values),
                dense_layers=total - moe,
            )
        except (TypeError, ValueError, ArithmeticError) as error:
            raise AllocMoEError(f"a field of this {name} model's config has a wrong type or value: {error}") from None
        if moe < 1:
            raise AllocMoEError(f"this {name} model has no MoE layer among its {total} layers")
        if not 1 <= spec.top_k <= spec.experts:
            raise AllocMoEError(f"{family.top_k} = {spec.top_k} is outside 1..{spec.experts}")
        return spec

    @classmethod
    def from_folder(cls, folder: Path | str) -> MoESpec:
        """Read `config.json` of a checkpoint folder."""
        return cls.from_config(read_config(folder))


@dataclass(frozen=True)
class Family:
    """Where one family's config keeps its routing shape.

    `moe_layers` tells which decoder layers have experts. Newer transformers rename some families'
    `experts` to `num_local_experts`, which is read too.
    """

    experts: str
    top_k: str = "num_experts_per_tok"
    scoring: str = "softmax"
    renormalise: Callable[[dict[str, Any]], bool] = lambda c: bool(c.get("norm_topk_prob", False))
    moe_layers: Callable[[dict[str, Any]], list[int]] = lambda c: list(range(int(c["num_hidden_layers"])))
    shared: Callable[[dict[str, Any]], int] = lambda c: 0


def _sparse_steps(c: dict[str, Any]) -> list[int]:
    step, dense = int(c.get("decoder_sparse_step") or 1), set(c.get("mlp_only_layers") or ())
    return [i for i in range(int(c["num_hidden_layers"])) if i not in dense and (i + 1) % step == 0]


def _after_dense(c: dict[str, Any]) -> list[int]:
    first, step = int(c.get("first_k_dense_replace") or 0), int(c.get("moe_layer_freq") or 1)
    return [i for i in range(int(c["num_hidden_layers"])) if i >= first and i % step == 0]


def _always(_: dict[str, Any]) -> bool:
    return True


def _shared(c: dict[str, Any]) -> int:
    return int(c.get("n_shared_experts") or 0)


GROUPED = "group_limited_greedy"  # of DeepSeek-V2's large model
# Granite and gpt-oss take the softmax after top-k, which equals softmax over all, renormalised.
FAMILIES = {
    "olmoe": Family("num_experts"),
    "qwen2_moe": Family(
        "num_experts", moe_layers=_sparse_steps, shared=lambda c: int(bool(c.get("shared_expert_intermediate_size")))
    ),
    "qwen3_moe": Family("num_experts", moe_layers=_sparse_steps),
    "deepseek_v2": Family("n_routed_experts", moe_layers=_after_dense, shared=_shared),
    "deepseek_v3": Family("n_routed_experts", scoring="sigmoid", moe_layers=_after_dense, shared=_shared),
    "glm4_moe": Family("n_routed_experts", scoring="sigmoid", moe_layers=_after_dense, shared=_shared),
    "mixtral": Family("num_local_experts", renormalise=_always),
    "granitemoe": Family("num_local_experts", renormalise=_always),
    "gpt_oss": Family("num_local_experts", renormalise=_always),
}

# (L, N, K) -> the budgets of the paper's section 4.1: DeepSeek-V2-Lite, Qwen1.5-MoE-A2.7B, OLMoE-1B-7B.
PAPER_BUDGETS = {
    (26, 64, 6): (130, 104, 78, 52),
    (24, 60, 4): (84, 72, 60, 48),
    (16, 64, 8): (112, 96, 80, 64),
}


def moe_layers(config: Any) -> list[int]:
    """Indices of the decoder layers that have experts, of a config that MoESpec can read."""
    MoESpec.from_config(config)
    values = config if isinstance(config, dict) else config.to_dict()
    return FAMILIES[values["model_type"]].moe_layers(values)


def read_config(folder: Path | str) -> dict[str, Any]:
    """The parsed `config.json` of a checkpoint folder; AllocMoEError if there is none to read."""
    path = Path(folder) / "config.json"
    if not Path(folder).is_dir():
        raise AllocMoEError(f"no model folder at {folder}: give a folder that holds a Hugging Face checkpoint")
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AllocMoEError(f"cannot read {path}: {error.strerror}; expected a Hugging Face checkpoint") from None
    except (ValueError, RecursionError) as error:
        raise AllocMoEError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise AllocMoEError(f"{path} does not hold a JSON object; expected a Hugging Face config")
    return config


def model_name(folder: Path | str) -> str:
    """What people call the model in a folder: the folder's name, or of a hub snapshot the repository's."""
    found = Path(folder).resolve()
    if found.parent.name == "snapshots" and found.parent.parent.name.startswith("models--"):
        return found.parent.parent.name.rpartition("--")[2]
    return documents.encodable(found.name)


def fingerprint(folder: Path | str) -> str:
    """A hash that tells two checkpoints apart without reading them whole.

    Covers the config and, of every safetensors file, its size, its header and sixteen evenly
    spaced blocks of 64 KiB: another training seed or a fine-tune changes it, a copy does not.
    """
    folder = Path(folder)
    config = read_config(folder)
    for volatile in ("transformers_version", "_name_or_path", "torch_dtype", "dtype"):
        config.pop(volatile, None)
    found = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise AllocMoEError(f"no *.safetensors file in {folder}: expected a Hugging Face checkpoint with weights")
    block, blocks = 65536, 16
    for shard in shards:
        try:
            size = shard.stat().st_size
            with shard.open("rb") as file:
                for i in range(blocks):
                    file.seek(max(0, size - block) * i // (blocks - 1))
                    found.update(file.read(block))
        except OSError as error:
            raise AllocMoEError(f"cannot read {shard}: {error.strerror}") from None
        found.update(f"{shard.name} {size}".encode())
    return found.hexdigest()[:16]
