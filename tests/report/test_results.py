"""The summary as JSON."""

from __future__ import annotations

import json

from allocmoe import report
from tests.report.made import plans, quality, speed


def test_the_summary_can_be_written_as_json():
    few = plans("uniform", "alloc-moe")
    found = report.summary([quality(*p) for p in few] + [speed(*p) for p in few])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (entry,) = found["quality"]
    row = next(r for r in entry["results"] if (r["method"], r["budget"]) == ("alloc-moe", 16))
    assert row["accuracy"]["mean"]["low"] < row["accuracy"]["mean"]["estimate"] < row["accuracy"]["mean"]["high"]
    assert {v["verdict"]["perplexity"] for v in entry["verdicts"]} <= {"better", "worse", "~"}
    assert found["speed"][0]["results"][0]["decode"] == {"estimate": 1, "low": 1, "high": 1}
