"""The profile's tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from allocmoe.records import Record
from allocmoe.report.results import results
from allocmoe.report.sections import sensitivity

pytestmark = pytest.mark.whole


def test_the_maps_are_the_tables_of_the_profile(records: list[Record]):
    (block,) = sensitivity.blocks(results(records))
    rise, distance = block.figure.data
    table = np.array(records[-1].details["perplexity"])
    assert np.array(rise.z) == pytest.approx(table / table[:, -1:] - 1)
    assert [list(row) for row in distance.z] == records[-1].details["distances"]


def test_a_profile_of_one_table_shows_that(records: list[Record]):
    details = {"perplexity": records[-1].details["perplexity"]}
    (block,) = sensitivity.blocks(results([*records[:-1], replace(records[-1], details=details)]))
    assert len(block.figure.data) == 1
    assert list(sensitivity.blocks(results([*records[:-1], replace(records[-1], details={})]))) == []
