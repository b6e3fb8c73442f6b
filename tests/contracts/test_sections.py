"""Every section of the report draws something, has a test of its own, and an unknown one raises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.report.page import templates
from allocmoe.report.results import Results, results
from allocmoe.report.section import Block, Section
from allocmoe.report.sections import SECTIONS, named
from tests.report.analysed import analysed
from tests.report.made import committed, decoded, onto, plans, profile, quality, speed, tuned

TESTS = Path(__file__).parents[1] / "report" / "sections"


@pytest.fixture(scope="module")
def found() -> Results:
    few = plans("uniform", "alloc-moe")
    timed = [onto(speed(*p)) for p in few]
    return results(
        [
            *committed(),
            *(quality(*p) for p in few),
            *timed,
            *(decoded(*p, 20) for p in few),
            profile(),
            tuned(),
            *analysed(),
        ]
    )


def failings(section: Section, found: Results, tests: Path = TESTS) -> Sequence[str]:
    """What a section lacks: figures with data and a caption, a name of its own, a test of its own."""
    blocks = list(section.blocks(found))
    environment = templates()
    environment.filters["name"] = str
    captions = [environment.from_string(section.caption).render(f=block.facts).strip() for block in blocks]
    path = tests / f"test_{section.key}_section.py"
    lacks = {
        "draws nothing": not any((b.figure and len(b.figure.data)) or (b.table and b.table.rows) for b in blocks),
        "has no caption": not captions or not all(captions),
        "has no test": not path.exists() or "def test_" not in path.read_text("utf-8"),
        "has no heading": not section.heading,
        "has an odd key": not section.key.isidentifier(),
    }
    return [what for what, true in lacks.items() if true]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.key)
def test_a_section_draws_and_is_tested(section: Section, found: Results):
    assert failings(section, found) == []
    assert named(section.key) is section


def test_the_contract_catches_what_it_says(found: Results, tmp_path: Path):
    empty = Section("empty", "Empty", lambda _: [], "Nothing.")
    words = Section("words", "", lambda _: [Block("Words", None, {})], "")
    assert failings(empty, found, tmp_path) == ["draws nothing", "has no caption", "has no test"]
    assert failings(words, found, tmp_path) == ["draws nothing", "has no caption", "has no test", "has no heading"]


def test_keys_are_distinct():
    assert len({section.key for section in SECTIONS}) == len(SECTIONS)


@pytest.mark.parametrize("name", ["", "Quality", "reading", "x" * 10_000])
def test_an_unknown_section_raises_in_one_short_line(name: str):
    with pytest.raises(
        AllocMoEError, match=r"unknown section .*: expected one of front, plane, paper, verdicts, quality, "
    ) as raised:
        named(name)
    assert len(str(raised.value)) < 300
