"""Every method on every setting of the paper gives a plan that spends the budget."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.lexi import lexi as search
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS, allocate
from allocmoe.plan import Plan
from allocmoe.profile.quantities import QUANTITIES
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.spec import PAPER_BUDGETS, MoESpec

FINGERPRINT = "0123456789abcdef"
SPECS = {
    "deepseek": MoESpec("deepseek_v2", 26, 64, 6, "softmax", False, 2, 1),
    "qwen": MoESpec("qwen2_moe", 24, 60, 4, "softmax", False, 1, 0),
    "olmoe": MoESpec("olmoe", 16, 64, 8, "softmax", False, 0, 0),
}
SETTINGS = [(name, budget) for name, s in SPECS.items() for budget in PAPER_BUDGETS[(s.layers, s.experts, s.top_k)]]
# the paper's methods as it describes them: name -> (layer rule, token rule)
PAPER = {
    "original": ("full", "top_k"),
    "uniform": ("uniform", "top_k"),
    "ascending": ("ascending", "top_k"),
    "descending": ("descending", "top_k"),
    "lexi": ("lexi", "top_k"),
    "alloc-l": ("alloc_l", "top_k"),
    "dynamic-moe": ("uniform", "top_p"),
    "naee": ("uniform", "naee"),
    "alloc-t": ("mean", "alloc_t"),
    "alloc-moe": ("alloc_l", "alloc_t"),
}
PROFILED = {name for name, row in METHODS.items() if row.needs}
PRUNING = {name for name, row in METHODS.items() if row.token_rule == "prune"}  # a budget of whole experts
DISTINCT = {name for name, row in METHODS.items() if row.layer_rule == "distinct"}  # a budget of distinct experts
FRACTIONS = {
    name for name, row in METHODS.items() if row.layer_rule in ("mean", "adapmoe", "xmoe", "one_pass")
} | PRUNING


def profile(spec: MoESpec, seed: int = 0) -> Sensitivity:
    """A random profile whose perplexities and distances fall with every expert more."""
    rng, shape = np.random.default_rng(seed), (spec.layers, spec.top_k)
    fall = rng.lognormal(-3, 1, shape).cumsum(1)[:, ::-1]
    k0, most = np.meshgrid(np.arange(1, spec.top_k + 1), np.arange(1, spec.top_k + 1), indexing="ij")
    special = {
        "perplexity": (9 + fall).tolist(),
        "distances": np.hstack([fall[:, 1:], np.zeros((spec.layers, 1))]).tolist(),
        "adapmoe": {"threshold": [3.0, 2.0, 1.0], "kept": curve(spec, rng)},
        "xmoe": {"threshold": [-1.0, 0.4, 0.9], "kept": curve(spec, rng)},
        "decode": {
            "loss": (2 + fall).tolist(), "distinct": (rng.integers(1, 60, shape).cumsum(1) / 16).tolist(),
            "pairs": rng.uniform(8, 64, shape).tolist(), "batch": 8, "passes": 16,
        },
        "decode_pairs": {
            "loss": (2 + fall[:, :, None] + 1 / np.maximum(k0, most)).tolist(),
            "pairs": [(8.0 * np.maximum(k0, most)).tolist()] * spec.layers, "batch": 8, "passes": 16,
        },
    }  # fmt: skip

    def numbers(wanted: Any) -> Any:
        return {n: numbers(s) for n, s in wanted.items()} if isinstance(wanted, dict) else rng.random(wanted).tolist()

    drawn = {name: numbers(q.shapes(spec)) for name, q in QUANTITIES.items() if name not in special}
    return Sensitivity(spec, FINGERPRINT, special | drawn, calibration={"text": "random"})


def curve(spec: MoESpec, rng: np.random.Generator) -> list[list[float]]:
    return [[1] * spec.layers, rng.uniform(1, spec.top_k, spec.layers).tolist(), [spec.top_k] * spec.layers]


PROFILES = {name: profile(spec) for name, spec in SPECS.items()}


def make(method: str, name: str, budget: float, **options: Any) -> Plan:
    return allocate(method, SPECS[name], FINGERPRINT, budget, PROFILES[name], **options)


def refused(says: str, *args: Any, **options: Any) -> None:
    with pytest.raises(AllocMoEError, match=says) as caught:
        allocate(*args, **options)
    assert "\n" not in str(caught.value)


def test_the_table_is_the_one_described() -> None:
    assert {name: (METHODS[name].layer_rule, METHODS[name].token_rule) for name in PAPER} == PAPER
    assert list(METHODS)[: len(PAPER)] == list(PAPER), "the order of every table"
    assert {name for name in PAPER if METHODS[name].needs} == {"lexi", "alloc-l", "dynamic-moe", "naee", "alloc-moe"}


@pytest.mark.parametrize(("name", "budget"), SETTINGS)
@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.whole] if m == "lexi" else []) for m in METHODS])
def test_every_method_spends_the_budget_and_survives_its_file(
    method: str, name: str, budget: int, tmp_path: Path
) -> None:
    spec = SPECS[name]
    budget = spec.original_budget if method == "original" else budget
    plan = make(method, name, budget)
    assert (plan.method, plan.token_rule) == (method, METHODS[method].token_rule)
    assert plan.budget == budget
    if method in DISTINCT:
        touched = np.array(PROFILES[name].quantity("decode")["distinct"])
        uniform = sum(touched[i, k - 1] for i, k in enumerate(make("uniform", name, budget).layers))
        mine = sum(touched[i, int(k) - 1] for i, k in enumerate(plan.layers))
        assert 0.9 * uniform < mine < 1.1 * uniform, "where B / L is no whole number, uniform has other layers in front"
    elif method in PRUNING:
        assert budget - spec.top_k / spec.experts < plan.exact_budget <= budget + 1e-9
    else:
        assert plan.exact_budget == (pytest.approx(budget, abs=1e-9) if method in FRACTIONS else budget)
    assert len(plan.layers) == spec.layers
    assert all(1 <= k <= spec.top_k for k in plan.layers)
    assert method in FRACTIONS or all(k == int(k) for k in plan.layers)
    assert set(plan.parameters) == set(plan.rule.parameters)
    assert all(len(plan.parameters[n]) == spec.layers for n, p in plan.rule.parameters.items() if p.per == "layer")
    plan.check_model(spec, FINGERPRINT)
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert again.digest == plan.digest


@pytest.mark.parametrize(("name", "budget"), [("qwen", 84), ("qwen", 60)])
def test_alloc_t_carries_the_fractional_mean(name: str, budget: int) -> None:
    assert make("alloc-t", name, budget).layers == (budget / 24,) * 24


def test_alloc_t_at_a_mean_that_is_no_binary_fraction() -> None:
    plan = make("alloc-t", "deepseek", 100)
    assert plan.layers == (100 / 26,) * 26
    assert plan.exact_budget == pytest.approx(100, abs=1e-9)


def test_layer_rules_are_the_ones_of_the_allocation() -> None:
    spec, known = SPECS["olmoe"], PROFILES["olmoe"]
    ppl = np.array(known.quantity("perplexity"))
    for method in ("alloc-l", "alloc-moe"):
        for how in ("raw", "ratio", "log"):
            plan = make(method, "olmoe", 80, normalize=how)
            assert plan.layers == tuple(alloc_l(ppl, 80, how))
            assert plan.origin["normalize"] == how
    assert make("alloc-l", "olmoe", 80).layers == tuple(alloc_l(ppl, 80, "ratio"))
    assert make("uniform", "olmoe", 80).layers == (5,) * 16
    assert make("original", "olmoe", 128).layers == (8,) * 16
    assert make("descending", "olmoe", 80).layers == make("ascending", "olmoe", 80).layers[::-1]
    lexi = make("lexi", "olmoe", 80, seed=4)
    assert lexi.layers == tuple(search(np.array(known.quantity("distances")), 80, 4))
    assert lexi.origin["seed"] == 4
    assert lexi.origin["profile"] == known.digest
    assert spec.original_budget == 128


@pytest.mark.parametrize(("method", "table"), [("dynamic-moe", "top_p"), ("naee", "naee")])
def test_thresholds_are_those_calibrated_for_the_layer_s_k(method: str, table: str) -> None:
    plan = make(method, "qwen", 60)
    assert set(plan.layers) == {2, 3}
    by_k = PROFILES["qwen"].quantity(table)
    assert list(plan.parameters["threshold"]) == [by_k[int(k) - 1][i] for i, k in enumerate(plan.layers)]


def test_options_reach_the_plan() -> None:
    plan = make("alloc-moe", "qwen", 60, k_base=2, reference="survivors")
    assert (plan.parameters["k_base"], plan.reference) == (2, "survivors")


def test_contributions_and_factors_are_those_of_the_profile() -> None:
    """Norms as they are; factors of the rule and the order, on a line between the halves of k."""
    known = PROFILES["olmoe"]
    plain = make("alloc-moe", "olmoe", 80)
    assert plain.norms == plain.scale == ()
    for method, rule in (("alloc-l", "top_k"), ("alloc-t", "alloc_t"), ("alloc-t-causal", "alloc_t")):
        for order in ("weight", "contribution"):
            plan = make(method, "olmoe", 75, scores=order, rescale="layer")
            assert plan.digest != make(method, "olmoe", 75).digest
            assert plan.layers == make(method, "olmoe", 75).layers
            np.testing.assert_allclose(plan.norms or 0, known.quantity("norms") if order == "contribution" else 0, 1e-4)
            table = np.array(known.quantity("rescale")[f"{rule} by {order}"])
            steps = 1 if rule == "top_k" else 2
            for layer, (k, factor) in enumerate(zip(plan.layers, plan.scale, strict=True)):
                place = (k - 1) * steps
                low, part = math.floor(place), place - math.floor(place)
                line = table[low, layer] * (1 - part) + table[min(low + 1, len(table) - 1), layer] * part
                assert factor == pytest.approx(line, rel=1e-4)
    by_score = make("alloc-t-causal", "olmoe", 64).parameters["threshold"]
    by_worth = make("alloc-t-causal", "olmoe", 64, scores="contribution").parameters["threshold"]
    assert by_score == tuple(known.quantity("score_threshold")[6])
    assert by_worth == tuple(known.quantity("contribution_threshold")[6])


def test_refill_and_cap_carry_their_numbers() -> None:
    """K' is K and small passes have 64 tokens unless said otherwise; the cap is what uniform top-k would touch."""
    assert make("oea", "olmoe", 64).parameters == {"pairs": 8, "refill_tokens": 64}
    chosen = make("alloc-moe-refill", "olmoe", 64, pairs=6, refill_tokens=16, k_base=2).parameters
    assert chosen == {"pairs": 6, "refill_tokens": 16, "k_base": 2}
    assert make("alloc-moe-refill", "olmoe", 64).layers == make("alloc-moe", "olmoe", 64).layers
    for batch, k in ((8, 3), (8, 4), (1, 4), (64, 4)):
        # each of 64 experts is left alone by all tokens with probability (1 - k / 64) ** batch
        expected = sum(1 - (1 - k / 64) ** batch for _ in range(64))
        made = make("xshare", "olmoe", 16 * k, batch=batch)
        assert made.layers == (k,) * 16
        assert all(abs(c - expected) <= 0.5 for c in made.parameters["experts"])
    assert make("xshare", "olmoe", 64).parameters["experts"] == (26,) * 16
    assert make("xshare", "olmoe", 64, batch=1).parameters["experts"] == (4,) * 16


@pytest.mark.parametrize("method", sorted(set(METHODS) - PROFILED))
def test_methods_without_a_profile_need_none(method: str) -> None:
    budget = 128 if method == "original" else 80
    assert allocate(method, SPECS["olmoe"], FINGERPRINT, budget) == make(method, "olmoe", budget)


@pytest.mark.parametrize("method", sorted(PROFILED))
def test_a_missing_or_foreign_profile_is_refused(method: str) -> None:
    spec, known = SPECS["olmoe"], PROFILES["olmoe"]
    refused("needs a profile", method, spec, FINGERPRINT, 80)
    refused("another model", method, spec, "f" * 16, 80, known)
    refused("another model", method, replace(spec, experts=32), FINGERPRINT, 80, known)
    refused("another model", method, spec, FINGERPRINT, 80, PROFILES["qwen"])


@pytest.mark.parametrize(
    ("method", "budget", "options", "says"),
    [
        ("alloc-x", 80, {}, "unknown method 'alloc-x'"),
        ("original", 80, {}, "spends 128, not 80"),
        ("uniform", 15, {}, "outside 16..128"),
        ("uniform", 129, {}, "outside 16..128"),
        ("alloc-t", 80.5, {}, "whole"),
        ("alloc-t", float("nan"), {}, "whole"),
        ("alloc-l", 80, {"normalize": "softmax"}, "unknown normalisation"),
        ("alloc-t", 80, {"k_base": -1}, "k_base"),
        ("alloc-t", 80, {"reference": "none"}, "unknown reference"),
        ("oea", 80, {"pairs": 9}, "pairs must be within 1..8"),
        ("oea", 80, {"pairs": -1}, "pairs must be within 1..8"),
        ("oea", 80, {"refill_tokens": -1}, "refill_tokens must not be negative"),
        ("oea", 80, {"refill_tokens": 1.5}, "refill_tokens must be a whole number"),
        ("xshare", 80, {"batch": 0}, "batch must be at least 1"),
        ("alloc-t", 80, {"scores": "norm"}, "unknown scores 'norm': expected weight or contribution"),
        ("alloc-t", 80, {"rescale": "channel"}, "unknown rescale 'channel': expected none or layer"),
        ("naee", 80, {"rescale": "layer"}, "rescale is not known for naee"),
        ("naee", 80, {"scores": "contribution"}, "naee does not choose by contributions"),
        ("alloc-t", 80, {"reference": "top-9"}, "unknown reference 'top-9'"),
        ("alloc-t", 80, {"reference": "top-"}, "unknown reference 'top-'"),
    ],
)
def test_an_impossible_request_is_refused(method: str, budget: float, options: dict[str, Any], says: str) -> None:
    refused(says, method, SPECS["olmoe"], FINGERPRINT, budget, PROFILES["olmoe"], **options)


def test_profiles_round_trip_and_refuse_a_wrong_shape(tmp_path: Path) -> None:
    known = PROFILES["qwen"]
    known.save(tmp_path / "profile.json")
    assert Sensitivity.load(tmp_path / "profile.json") == known
    assert known.digest != profile(SPECS["qwen"], seed=1).digest
    for table in ("perplexity", "distances", "top_p", "naee", "soft_counts", "saliency"):
        first, *others = known.quantity(table)
        for wrong in (others, [first[1:], *others], "text", {"a": first}, [[None] * len(first), *others]):
            with pytest.raises(AllocMoEError, match=table):
                replace(known, quantities={**known.quantities, table: wrong})
