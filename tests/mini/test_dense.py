"""The dense comparison, against the engine: two ways to one model's perplexity, and what cannot be compared."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from allocmoe import mini, records
from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.perplexity import perplexity

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def compare() -> Any:
    return runpy.run_path(str(Path(__file__).parents[2] / "bench/dense.py"))["main"]


def test_a_model_against_itself(compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to, folder = tmp_path / "dense.jsonl", mini.resolve("mini-olmoe")
    compare([folder], "mini-train", to=to, count=2, items=0)
    found = records.load(to)
    engine = HFEngine.load(folder)
    for record, text in zip(found, ("mini-test", "mini-train") * 2, strict=True):
        known = perplexity(engine, windows(engine.tokenizer, text, 2, 256), 8).value
        assert record.metrics["perplexity"] == pytest.approx(known, rel=1e-6)
        assert record.setup["text"] == text
        assert record.details["trained"]["tokens"] > 1e6
    assert found[0].fingerprint == engine.fingerprint
    assert "1.000 (1.000 to 1.000)" in capsys.readouterr().out


def test_another_tokenizer_is_refused(compare: Any, tmp_path: Path) -> None:
    with pytest.raises(AllocMoEError, match="another tokenizer than mini-olmoe"):
        compare([mini.resolve("mini-qwen")], "mini-train", to=tmp_path / "dense.jsonl", count=2, items=0)
