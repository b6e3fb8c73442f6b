"""Engines by name: one table, and a name that it lacks is refused wherever a name is asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from allocmoe.cli.common import check_engine
from allocmoe.engines import ENGINES, engine_class, known
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.loading import load
from allocmoe.measure.suite import Suite


def test_a_name_gives_its_class() -> None:
    assert known("transformers") == "transformers"
    assert engine_class("transformers") is HFEngine


@pytest.mark.parametrize("name", ENGINES)
def test_every_class_has_both_ways_in(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    assert all(callable(getattr(engine_class(name), method)) for method in ("load", "adopt", "close"))


def test_an_unknown_name_is_refused_everywhere() -> None:
    said = "sglang"
    with pytest.raises(AllocMoEError, match=r"unknown engine 'sglang': expected transformers or vllm"):
        known(said)
    with pytest.raises(AllocMoEError, match=said):
        engine_class(said)
    with pytest.raises(AllocMoEError, match=said):
        check_engine(said)
    with pytest.raises(AllocMoEError, match=said):
        load(said, Path("anywhere"), "float32", "cpu", 1)
    with pytest.raises(AllocMoEError, match=said):
        Suite(models=("mini-olmoe",), timed=((said, "mini-olmoe"),))
    with pytest.raises(AllocMoEError) as caught:
        known("x" * 100_000)
    assert len(str(caught.value)) < 200
