"""What a setting is made of: profiles that are kept or given."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocmoe.analyses.setting import profiles
from allocmoe.errors import AllocMoEError
from tests.analyses.small import BATCH, text
from tests.conftest import tiny


def test_a_profile_is_made_once_and_a_given_one_is_used(tmp_path: Path) -> None:
    engine, usual = tiny("olmoe"), text("usual", 1, 2)
    to = tmp_path / "records.jsonl"
    made = profiles(engine, usual, BATCH, to, None, 0, False)(usual, ["perplexity"])
    (path,) = (tmp_path / "records.profiles").iterdir()
    stamp = path.stat().st_mtime_ns
    again = profiles(engine, usual, BATCH, to, None, 0, False)(usual, ["perplexity"])
    assert again.digest == made.digest
    assert path.stat().st_mtime_ns == stamp
    given = profiles(engine, usual, BATCH, tmp_path / "other.jsonl", path, 0, False)
    assert given(usual, ["perplexity"]).digest == made.digest
    assert not (tmp_path / "other.profiles").exists()
    other = given(text("other", 2, 2), ["perplexity"])
    assert other.calibration["text"] == "other"


def test_a_profile_of_something_else_is_refused(tmp_path: Path) -> None:
    engine, usual = tiny("olmoe"), text("usual", 1, 2)
    profiles(engine, usual, BATCH, tmp_path / "r.jsonl", None, 0, False)(usual, ["perplexity"])
    (path,) = (tmp_path / "r.profiles").iterdir()
    for changed in ({"first": text("usual", 3, 2)}, {"batch": 1}, {"seed": 1}, {"engine": tiny("qwen2_moe")}):
        values = {
            "engine": engine,
            "first": usual,
            "batch": BATCH,
            "to": tmp_path / "r.jsonl",
            "given": path,
            "seed": 0,
        }
        with pytest.raises(AllocMoEError, match="another model, text, batch or seed"):
            profiles(**values | changed, progress=False)
