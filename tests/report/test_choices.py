"""The plans that a reader may choose between, as the page's script gets them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from allocmoe import stats
from allocmoe.records import Record
from allocmoe.report.choices import Choice
from allocmoe.report.results import results
from tests.report.made import decoded, elsewhere, onto, plans, quality, speed

pytestmark = pytest.mark.whole

FEW = plans("uniform", "alloc-moe")
QUALITY = [quality(*p) for p in FEW]


def choice(*more: Record) -> Choice:
    (found,) = results([*QUALITY, *more]).choices
    return found


def test_a_point_is_a_plan_with_its_losses_and_its_own_speed():
    timed = [onto(speed(*p)) for p in FEW]
    about = choice(*timed).about
    json.dumps(about, allow_nan=False)
    assert list(about["costs"]) == ["activations", "prefill:0", "decode:0"]
    assert about["engines"] == {"0": "olmoe-wide (random weights) · transformers"}
    assert list(about["measures"]) == ["perplexity", "nlu", "reasoning", "math", "mean"]
    assert (about["whole"], about["pick"]) == (48, "alloc-moe@24")
    whole, base = QUALITY[0], timed[0]
    by = {p["key"]: p for p in about["points"]}
    assert len(by) == len(QUALITY)
    for record, other in zip(QUALITY, timed, strict=True):
        p = by[f"{record.method}@{record.budget}"]
        assert (p["method"], p["budget"], p["plan"]) == (record.method, record.budget, record.plan)
        ratio = stats.perplexity_ratio(record.samples["nll"], whole.samples["nll"], record.samples["window_tokens"])
        assert p["losses"]["perplexity"]["low"] == pytest.approx(100 * (ratio.low - 1))
        decode = stats.log_ratio(base.samples["decode_s"], other.samples["decode_s"])
        assert p["costs"]["decode:0"]["estimate"] == decode.estimate
        assert p["tiles"]["decode:0"] == [
            f"{decode.estimate:.2f}\u00d7",
            f"{decode.low:.2f} to {decode.high:.2f}",
            "decode on olmoe-wide",
        ]
        gap = record.metrics["group/mean"] - whole.metrics["group/mean"]
        said = p["tiles"]["accuracy"][0].replace("\N{MINUS SIGN}", "-").removesuffix(" points")
        assert float(said) == pytest.approx(100 * gap, abs=0.051)


def test_another_shapes_speed_is_nobodys():
    assert list(choice(*(elsewhere(speed(*p)) for p in FEW)).about["costs"]) == ["activations"]


def test_two_engines_are_told_apart():
    other = [replace(r, setup=r.setup | {"engine": "vllm"}) for r in (onto(speed(*p)) for p in FEW)]
    about = choice(*(onto(speed(*p)) for p in FEW), *other).about
    assert [label.rpartition(" · ")[2] for label in about["engines"].values()] == ["transformers", "vllm"]
    assert {"decode:0", "decode:1"} <= set(about["points"][1]["costs"])


def test_distinct_experts_are_a_cost_as_if_decoding():
    made = [decoded("original", 48, 40), decoded("uniform", 24, 25), decoded("alloc-moe", 24, 24)]
    (found,) = results(made).choices
    assert list(found.about["costs"]) == ["activations", "distinct"]
    assert [p["costs"]["distinct"]["estimate"] for p in found.about["points"]] == [40, 25, 24]


def test_of_two_groups_of_a_model_the_larger_one_is_chosen_from():
    more = [quality(*p, text="another text") for p in FEW[:3]]
    assert choice(*more).q.group.setup["text"] == "generated stories"
