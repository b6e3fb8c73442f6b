"""Rules across tokens."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import token_rules
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_it_has_the_token_rules_alone() -> None:
    (block,) = token_rules.blocks(results(analysed.methods()))
    rows = {row["label"]: row for row in block.facts["rows"]}
    assert [label for label, row in rows.items() if row["cells"][0][0] != "\N{EN DASH}"] == [
        "uniform", "NAEE", "Alloc-T",
    ]  # fmt: skip
    assert rows["Alloc-T"]["theirs"] == ["46.30", "45.93", "45.42", "42.83"]
    assert {t.name for t in block.figure.data} == {"uniform", "NAEE", "Alloc-T"}
