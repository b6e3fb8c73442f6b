"""Rows of groups."""

from __future__ import annotations

import math
from dataclasses import replace

from allocmoe import stats
from allocmoe.records import Record
from allocmoe.report.groups import groups
from allocmoe.report.rows import speed_rows
from tests.report.made import one


def test_speedups_are_paired_within_their_session(records: list[Record]):
    timed = [r for r in records if r.about == "speed"]
    slow = [replace(r, setup=r.setup | {"session": "two"}) for r in timed if r.method == "naee"]
    other = replace(timed[0], setup=slow[0].setup, samples={"prefill_s": [1.0] * 10, "decode_s": [30.0] * 10})
    rows = speed_rows(groups([*timed, *slow, other], "speed")[0])
    known = stats.log_ratio([30.0] * 10, one(slow, "naee", 32).samples["decode_s"])
    assert one(rows, "naee", 32).decode == known
    assert 1 < one(rows, "uniform", 32).decode.low < one(rows, "uniform", 32).decode.high < 2
    assert all(math.isnan(r.decode.estimate) for r in speed_rows(groups(slow, "speed")[0]))
