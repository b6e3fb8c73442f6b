"""Pruned routing against checkpoints whose other experts really are gone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from allocmoe.engines.hf import HFEngine
from allocmoe.engines.planned import PlannedLayer
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.routing.prune import prune
from allocmoe.routing.scores import Scoring
from allocmoe.spec import MoESpec
from tests import conftest
from tests.conftest import SMALL
from tests.engines.loops import EXPERTS, TOP, kept, plan

IDS = torch.randint(1, 96, (3, 20), generator=torch.Generator().manual_seed(0))
STAY = (0, 3, 4, 7, 8, 11)
FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "deepseek_v2 scaled", "qwen3_moe", "olmoe normalised", "mixtral",
            "gpt_oss")  # fmt: skip


def config(family: str) -> PretrainedConfig:
    """Twelve experts in every one of them."""
    if family == "qwen3_moe":
        return Qwen3MoeConfig(
            **SMALL, num_hidden_layers=2, num_experts=12, num_experts_per_tok=3, moe_intermediate_size=8, head_dim=16,
            norm_topk_prob=True,
        )  # fmt: skip
    if family == "mixtral":
        return MixtralConfig(
            **SMALL, num_hidden_layers=2, num_local_experts=12, num_experts_per_tok=2, intermediate_size=8
        )  # fmt: skip
    if family == "gpt_oss":
        return GptOssConfig(
            **SMALL, num_hidden_layers=2, num_local_experts=12, num_experts_per_tok=2, intermediate_size=8, head_dim=16
        )  # fmt: skip
    made = conftest.config(family.split()[0])
    setattr(made, "n_routed_experts" if "deepseek" in family else "num_experts", 12)
    if "scaled" in family:
        made.routed_scaling_factor = 2.5
    if "normalised" in family:
        made.norm_topk_prob = True
    return made


def model_of(family: str) -> tuple[Any, PretrainedConfig]:
    torch.manual_seed(3)
    made = config(family)
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    for parameter in model.parameters():  # biases too, which start at zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval(), made


def without(model: Any, gone: list[int]) -> Any:
    """The same model with experts cut out of every router and every expert weight."""
    cut = copy.deepcopy(model)
    stay = [e for e in range(EXPERTS) if e not in gone]
    for module in cut.modules():
        if type(module).__name__.lower().endswith(("topkrouter", "experts")):
            for name, parameter in list(module.named_parameters(recurse=False)):
                assert len(parameter) == EXPERTS, name
                setattr(module, name, torch.nn.Parameter(parameter[stay].clone()))
            module.num_experts = len(stay)
    return cut


@pytest.mark.parametrize("family", FAMILIES)
def test_it_routes_as_the_pruned_checkpoint(family: str) -> None:
    """So the first output of each of these routers is the raw logits."""
    model, made = model_of(family)
    spec = MoESpec.from_config(made)
    cut = without(model, [e for e in range(EXPERTS) if e not in STAY])
    with torch.no_grad():
        wanted, whole = (m(IDS, use_cache=False).logits for m in (cut, model))
    assert not torch.allclose(wanted, whole, atol=1e-3), "the experts that are gone were never needed"
    row = tuple(int(e in STAY) for e in range(EXPERTS))
    top = spec.top_k
    pruned = Plan(
        "seer", top * spec.layers, (top / 2,) * spec.layers, top, "prune", "mark", spec.family, EXPERTS,
        {"kept": (row,) * spec.layers},
    )  # fmt: skip
    engine = HFEngine(model, spec, family, "mark")
    with engine.using(pruned), engine.count() as spent, torch.no_grad():
        found = engine.model(IDS, use_cache=False).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert spent.activations.tolist() == [IDS.numel() * top] * spec.layers
    assert set(spent.load.nonzero()[:, 1].tolist()) == set(STAY)


def test_in_bfloat16_it_is_not_scaled_by_rounding() -> None:
    """Weights of bfloat16 sum to a little more or less than their scores."""
    logits = torch.randn(200, EXPERTS, generator=torch.Generator().manual_seed(1))
    weights, ids = logits.softmax(-1).topk(TOP)
    rule = PlannedLayer.of(plan("prune"), 0)
    narrow = rule(weights.bfloat16(), ids, None, logits)
    wide = rule(weights, ids, None, logits)
    assert torch.equal(narrow[0], wide[0].bfloat16())
    assert torch.equal(narrow[1], wide[1])


def test_ties_go_to_the_lower_id() -> None:
    stays = torch.tensor([True, False, True, True, True, False])
    scores, ids = prune(torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0, 9.0]]), stays, 3)
    assert ids.tolist() == [[0, 3, 4]]
    assert scores.unique().numel() == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_and_weights_stay_of_their_types(dtype: torch.dtype) -> None:
    weights, ids = torch.rand(5, TOP).double(), torch.arange(TOP).repeat(5, 1).to(dtype)
    found = PlannedLayer.of(plan("prune"), 0)(weights, ids, None, torch.randn(5, EXPERTS))
    assert (found[0].dtype, found[1].dtype) == (torch.float64, dtype)


def test_padding_keeps_nothing_whatever_its_logits() -> None:
    logits = torch.randn(3, EXPERTS)
    real = torch.tensor([True, False, True])
    rule = PlannedLayer.of(plan("prune"), 0, -1)

    def routed(scores: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        weights, ids = scores.softmax(-1).topk(TOP)
        return rule(weights, ids, valid, scores)

    alone = kept(*routed(logits[real], None), -1)
    for junk in (0.0, 1e30, float("inf"), float("nan")):
        logits[1] = junk
        weights, ids = routed(logits, real)
        assert (ids[1] == -1).all()
        assert (weights[1] == 0).all()
        assert kept(weights[real], ids[real], -1) == alone


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ((1,) * 11, "one value of kept per expert: 12, got 11"),
        ((1, 1, 1) + (0,) * 9, "layer 0 of the plan: prune keeps 3 experts of which a token needs 4"),
        ((2, 1, 1, 1) + (0,) * 8, "layer 0 of the plan: kept must say 1"),
        ((0.5, 1, 1, 1) + (1,) * 8, "must be a whole number"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(kept: tuple[float, ...], says: str) -> None:
    with pytest.raises(AllocMoEError, match=says):
        plan("prune", parameters={"kept": (kept,)})


def test_without_logits_or_scores_over_all_experts_it_is_refused() -> None:
    weights, ids = torch.rand(2, TOP), torch.arange(TOP).repeat(2, 1)
    with pytest.raises(AllocMoEError, match="needs the router's logits"):
        PlannedLayer.of(plan("prune"), 0)(weights, ids, None)
    for scoring in (Scoring("sigmoid"), Scoring(groups=4, open_groups=2)):
        with pytest.raises(AllocMoEError, match=f"this model's is {scoring.name}"):
            PlannedLayer.of(plan("prune"), 0, scoring=lambda scoring=scoring: scoring)
    grouped = conftest.config("deepseek_v2").to_dict() | {"topk_method": "group_limited_greedy"}
    assert MoESpec.from_config(grouped).scoring == Scoring(groups=4, open_groups=2).name
