"""How a plan reaches vLLM: what is asked for in a config or by a variable, and what is not understood."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocmoe.engines.vllm.settings import KEY, VARIABLE, Settings, plan_of
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from tests.engines.loops import TOKEN_RULES, plan, plans


def asked(value: Any) -> Settings:
    found = Settings.of({KEY: value})
    assert found is not None
    return found


def refused(value: Any, *says: str) -> None:
    with pytest.raises(AllocMoEError) as caught:
        Settings.of({KEY: value})
    message = str(caught.value)
    assert "\n" not in message
    for word in says:
        assert word in message


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    plan("alloc_t").save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


@pytest.mark.parametrize("config", [None, {}, {"other": 1}, {KEY: None}, object(), [KEY]])
def test_nothing_asked_is_none(config: Any) -> None:
    assert Settings.of(config) is None
    assert Settings.requested(config) is None


def test_a_path_is_read(file: Path) -> None:
    assert asked({"plan": str(file)}) == Settings(plan("alloc_t"))


@pytest.mark.parametrize("token_rule", TOKEN_RULES)
def test_a_document_is_taken_as_it_is(token_rule: str) -> None:
    assert asked({"plan": plan(token_rule).to_dict()}) == Settings(plan(token_rule))


def test_a_path_object_is_a_path_or_a_refusal(file: Path) -> None:
    """From `LLM(additional_config=...)` in Python one may well come."""
    try:
        found = asked({"plan": file})
    except AllocMoEError:
        return
    assert found.plan == plan("alloc_t")


def test_flags_default_to_false_and_are_read() -> None:
    document = plan("naee").to_dict()
    found = asked({"plan": document})
    assert (found.live, found.count, found.any_weights) == (False, False, False)
    for name in ("live", "count", "any_weights"):
        found = asked({"plan": document, name: True})
        assert {n for n in ("live", "count", "any_weights") if getattr(found, n)} == {name}


def test_no_plan_yet_needs_live() -> None:
    assert asked({"live": True}) == Settings(live=True)
    assert asked({"live": True, "plan": None, "count": True}) == Settings(live=True, count=True)
    for value in ({}, {"plan": None}, {"live": False}, {"count": True, "any_weights": True}):
        refused(value, "no plan", '"live": true')


@pytest.mark.parametrize("value", ["plan.json", 1, True, [], [{"plan": "plan.json"}]])
def test_what_is_asked_must_be_an_object(value: Any) -> None:
    refused(value, "object", '{"plan": "plan.json"}')


def test_unknown_keys_are_named(file: Path) -> None:
    refused({"plan": str(file), "k_base": 2, "budget": 8}, "budget, k_base", "plan, live, count, any_weights")
    refused({"Plan": str(file)}, "Plan")


@pytest.mark.parametrize("name", ["live", "count", "any_weights"])
@pytest.mark.parametrize("value", [1, 0, "true", "false", None, [], 1.0])
def test_flags_must_be_true_or_false(file: Path, name: str, value: Any) -> None:
    refused({"plan": str(file), name: value}, name, "true or false", repr(value))


@pytest.mark.parametrize("value", [1, True, 2.5, [], ["plan.json"], {}, {"kind": "allocmoe.record"}, float("nan")])
def test_a_plan_of_the_wrong_type_is_refused(value: Any) -> None:
    refused({"plan": value})


def test_a_document_is_checked_as_a_file_is() -> None:
    document = plan("top_k").to_dict()
    refused({"plan": document | {"version": 99}}, "version 99", "upgrade")
    refused({"plan": document | {"layers": [9.0]}}, "k = 9")
    refused({"plan": document | {"token_rule": "dice"}})
    refused({"plan": {k: v for k, v in document.items() if k != "top_k"}}, "top_k")
    refused({"plan": document | {"layers": [float("nan")]}})


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    refused({"plan": str(tmp_path / "none.json")}, str(tmp_path / "none.json"))
    refused({"plan": str(tmp_path)}, str(tmp_path))
    refused({"plan": ""})


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b"\xff" + b, lambda b: b"[" + b + b"]"])
def test_a_damaged_plan_is_named(file: Path, damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(damage(file.read_bytes()))
    refused({"plan": str(file)}, str(file))
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(AllocMoEError, match=str(file)):
        Settings.requested({})


def test_the_variable_is_asked_last(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = plan("top_p")
    other.save(tmp_path / "other.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.json"))
    for nothing in (None, {}, {"other": 1}, {KEY: None}):
        assert Settings.requested(nothing) == Settings(other)
        assert Settings.of(nothing) is None
    assert Settings.requested({KEY: {"plan": str(file)}}) == Settings(plan("alloc_t"))
    assert Settings.requested({KEY: {"live": True}}) == Settings(live=True)


def test_a_variable_that_is_not_needed_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "no such file")
    assert Settings.requested({KEY: {"plan": str(file)}}) == Settings(plan("alloc_t"))
    with pytest.raises(AllocMoEError, match="no such file"):
        Settings.requested({})


def test_an_empty_variable_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert Settings.requested({}) is None


def test_a_plan_as_json_text_is_checked_as_a_file_is(file: Path) -> None:
    assert plan_of(file.read_text()) == plan("alloc_t")
    for text in ("{", "[]", "no plan"):
        with pytest.raises(AllocMoEError, match="the plan given to the engine"):
            plan_of(text)


@settings(deadline=None, max_examples=50)
@given(st.none() | plans(), st.booleans(), st.booleans(), st.booleans())
def test_it_comes_back_through_json(plan: Plan | None, live: bool, count: bool, any_weights: bool) -> None:
    """So vLLM's config carries it, and to other processes."""
    before = Settings(plan, live or plan is None, count, any_weights)
    sent = json.loads(json.dumps(before.to_dict(), allow_nan=False))
    assert asked(sent) == before
    assert asked(sent).to_dict() == before.to_dict()
    if plan is not None:
        assert plan_of(sent["plan"]).digest == plan.digest


@pytest.mark.parametrize("module", ["settings", "plugin", "distribution", "refuse"])
def test_it_loads_neither_vllm_nor_torch(module: str) -> None:
    """vLLM loads the plugin in every process; without a plan that must cost nothing."""
    code = f"import sys, allocmoe.engines.vllm.{module}; print({{'vllm', 'torch', 'transformers'}} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
