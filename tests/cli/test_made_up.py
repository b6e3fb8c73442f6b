"""A word where a model of one's own would be judged by what was generated for the embedded ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from calls import MODEL, TINY, call

from allocmoe.mini import embedded, resolve

pytestmark = pytest.mark.whole

SAYS = "for the embedded models and says little of another"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model that does not ship: a copy of one that does."""
    return Path(shutil.copytree(resolve(MODEL), tmp_path / "own"))


def test_what_ships_is_known_by_name_and_by_folder(own: Path) -> None:
    assert embedded(MODEL)
    assert embedded(str(resolve(MODEL)))
    assert not embedded(str(own))


@pytest.mark.parametrize("given", [False, True])
def test_generated_text_and_tasks_are_named(own: Path, tmp_path: Path, given: bool) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("Tom was hungry. They went to the market. " * 40, "utf-8")
    rest = ["--text", text, "--items", "0"] if given else ["--items", "1"]
    result = call("eval", own, *TINY, "--records", tmp_path / "r.jsonl", *rest)
    assert result.code == 0
    assert result.err.count(SAYS) == (0 if given else 2)


def test_of_a_model_that_ships_there_is_no_word(tmp_path: Path) -> None:
    result = call("eval", resolve(MODEL), *TINY, "--items", "0", "--records", tmp_path / "r.jsonl")
    assert (result.code, result.err.count(SAYS)) == (0, 0)
