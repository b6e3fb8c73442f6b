"""Rules across layers."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import layer_rules
from tests.report import analysed

pytestmark = pytest.mark.whole


def test_rules_that_the_paper_only_drew_have_no_number_of_theirs() -> None:
    (block,) = layer_rules.blocks(results(analysed.methods()))
    rows = {row["label"]: row for row in block.facts["rows"]}
    assert rows["uniform"]["theirs"] == ["46.06", "45.51", "43.90", "41.27"]
    assert set(rows["LExI"]["theirs"]) == set(rows["ascending"]["theirs"]) == {"\N{EN DASH}"}
    assert len(rows["LExI"]["cells"]) == 4
    assert "figures alone" in block.facts["note"]
