"""The whole search, on an embedded model that is timed itself. No test looks at how long anything took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe import mini, records
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.measure.protocol import Protocol
from allocmoe.plan import Plan
from allocmoe.stats import Interval
from allocmoe.tune import run as tuning
from allocmoe.tune import size, timing
from allocmoe.tune.ends import at_least, at_most
from allocmoe.tune.wish import Limit, Wish

pytestmark = pytest.mark.whole

SMALL = Protocol(batch=4, prompt=4, decode=2, warmups=0, runs=3)
METHODS = ("alloc-d", "oea", "alloc-moe", "uniform", "alloc-moe-causal")
MODEL = tuning.Model("mini-qwen", shape="mini-qwen", methods=METHODS)
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "SIZES", {0: size.Size(2, (4, 4, 8), SMALL, SMALL, 2, pairs=True)})
    monkeypatch.setattr(size, "WINDOW", 32)
    monkeypatch.setattr(tuning, "WINDOW", 32)


def run(wish: Wish, out: Path) -> dict[str, Any]:
    return tuning.tune(MODEL, wish, out, batch=4, minutes=30, progress=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(size, "SIZES", {0: size.Size(2, (4, 4, 8), SMALL, SMALL, 2, pairs=True)})
        patch.setattr(tuning, "WINDOW", 32)
        return run(Wish(1.05, Limit("perplexity", 20)), out), out


def test_the_document_is_json_with_both_ends(found: tuple[dict[str, Any], Path]) -> None:
    document, _ = found
    assert json.loads(json.dumps(document)) == document
    assert {"method", "budget", "promised", "measured", "plan", "met"} <= set(document)
    assert [end["wish"] for end in document["ends"]] == ["speedup", "loss"]


def test_met_is_what_was_measured(found: tuple[dict[str, Any], Path]) -> None:
    for end in found[0]["ends"]:
        speed, lost = Interval(*end["measured"]["speedup"]), Interval(*end["measured"]["loss"])
        assert end["met"] == (at_least(speed, 1.05) and at_most(lost, 20) and speed.estimate > 1)


@pytest.mark.parametrize(("measured", "reached", "little"), [
    ((1.2, 1.1, 1.3), True, True), ((1.25, 1.24, 1.26), True, False), ((1.18, 1.1, 1.3), True, True),
    ((1.02, 0.8, 1.3), False, True), ((1.18, 1.17, 1.19), False, True), ((1.4, 1.1, 1.7), True, True),
    ((1.6, 1.1, 2.1), True, False),
])  # fmt: skip
def test_a_wide_interval_alone_grants_nothing(
    measured: tuple[float, float, float], reached: bool, little: bool
) -> None:
    assert at_least(Interval(*measured), 1.2) is reached
    assert at_most(Interval(*measured), 1.2) is little


def test_the_plan_is_the_models_and_refills_prompts_too(found: tuple[dict[str, Any], Path]) -> None:
    document, out = found
    engine = HFEngine.load(mini.resolve("mini-qwen"))
    for end in document["ends"]:
        plan = Plan.load(Path(end["plan"]))
        plan.check_model(engine.spec, engine.fingerprint)
        assert (plan.method, plan.budget) == (end["method"], end["budget"])
        assert plan.parameters.get("refill_tokens", 1 << 30) == 1 << 30
    assert Path(document["plan"]) == out / "plan.json"


def test_what_was_promised_and_what_was_measured_come_from_other_text(found: tuple[dict[str, Any], Path]) -> None:
    document, out = found
    known = records.load(out / "records.jsonl")
    texts = {r.setup["digest"] for r in known if r.about == "quality"}
    assert len(texts) == 2
    (tuned,) = [r for r in known if r.about == "tune"]
    assert tuned.plan == Plan.load(Path(document["plan"])).digest
    assert {p["method"] for p in tuned.details["front"]} == set(METHODS)
    assert sum(r.about == "cost" for r in known) == 1


def test_the_page_tells_the_front(found: tuple[dict[str, Any], Path]) -> None:
    text = Path(found[0]["report"]).read_text("utf-8")
    assert "What the wish costs" in text
    assert "4 sequences at a time" in text


def test_a_second_run_measures_nothing_again(found: tuple[dict[str, Any], Path]) -> None:
    document, out = found
    before = (out / "records.jsonl").read_text("utf-8")
    again = run(Wish(1.05, Limit("perplexity", 20)), out)
    after = (out / "records.jsonl").read_text("utf-8")
    assert after.startswith(before)
    assert [json.loads(line)["about"] for line in after[len(before) :].splitlines()] == ["tune"]
    assert again == document


def test_times_of_something_else_are_not_taken(found: tuple[dict[str, Any], Path]) -> None:
    _, out = found
    timed = timing.Timed("transformers", "mini-qwen", "float32", "cpu", 0, out / "records.jsonl", False)
    assert timed._known(SMALL)
    for change in ({"model": "qwen-wide"}, {"model": "mini-olmoe"}, {"dtype": "bfloat16"}, {"seed": 1}):
        assert replace(timed, **change)._known(SMALL) == []
    assert timed._known(replace(SMALL, runs=4)) == []


def test_an_unknown_task_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(AllocMoEError, match="nonsense"):
        tuning.check(replace(MODEL, methods=("uniform",), tasks=("nonsense",)), Wish(limit=Limit("accuracy", 1)), 4, 1)


def test_a_wish_that_cannot_be_had_tells_the_nearest(found: tuple[dict[str, Any], Path]) -> None:
    _, out = found
    document = run(Wish(50.0), out)
    assert not document["met"]
    assert document["measured"]["speedup"][2] < 50
    assert Plan.load(Path(document["plan"])).budget == document["budget"]


def test_where_a_method_has_no_plan_the_nearest_that_was_measured_goes_on(found: tuple[dict[str, Any], Path]) -> None:
    _, out = found
    document = tuning.tune(replace(MODEL, methods=("ascending",)), Wish(50.0), out, batch=4, progress=False)
    tried = [p["budget"] for p in records.load(out / "records.jsonl")[-1].details["front"]]
    assert document["budget"] == min(tried) > 24, "no ascending schedule keeps one expert in each of 24 layers"


def test_no_plan_at_all_is_one_sentence(found: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.Field, "plan", lambda *_: None)
    with pytest.raises(AllocMoEError, match="none of uniform has a plan"):
        tuning.tune(replace(MODEL, methods=("uniform",)), Wish(1.5), found[1], batch=4, progress=False)
