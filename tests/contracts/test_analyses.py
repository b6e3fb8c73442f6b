"""Every analysis in the table has an oracle, a section with a test of its own, and an unknown one raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocmoe.analyses import ANALYSES, analysis
from allocmoe.errors import AllocMoEError
from allocmoe.report.sections import named
from tests.contracts.oracles import ANALYSIS_ORACLES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "allocmoe" / "analyses"


def test_every_analysis_has_an_oracle() -> None:
    assert set(ANALYSIS_ORACLES) == set(ANALYSES), "an analysis without an oracle, or an oracle without an analysis"
    for name, file in ANALYSIS_ORACLES.items():
        text = (ROOT / file).read_text("utf-8")
        assert "def test_" in text
        assert name in text, f"the oracle of {name} does not name it"


@pytest.mark.parametrize("name", ANALYSES)
def test_it_says_what_it_is_and_has_a_section(name: str) -> None:
    one = ANALYSES[name]
    assert one.name == name
    assert one.about
    assert one.paper
    assert named(name).heading


def test_a_file_that_ends_in_an_analysis_is_in_the_table() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py") if "\nANALYSIS = Analysis(" in path.read_text("utf-8")}
    assert files == set(ANALYSES)


@pytest.mark.parametrize("name", ["", "Load", "x" * 10_000])
def test_an_unknown_analysis_raises_in_one_short_line(name: str) -> None:
    with pytest.raises(AllocMoEError, match=r"unknown analysis .*: expected one of load, entropy, ") as raised:
        analysis(name)
    assert len(str(raised.value)) < 300
