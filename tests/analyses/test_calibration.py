"""Calibration: each row's plans are what Alloc-L allocates from a profile of its text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.analyses import calibration
from allocmoe.profile import algorithm1
from tests.analyses.small import BATCH, setting, text


def test_plans_follow_from_algorithm_1_on_each_text(tmp_path: Path) -> None:
    usual, other = text("usual", 1, 4), text("other", 2, 2)
    made = setting(tmp_path / "r.jsonl", calibrations=(usual, other), budgets=(8, 11))
    assert list(calibration.texts(made)) == ["usual, 4 windows", "other, 2 windows", "usual, 1 window"]
    *measured, table = calibration.ANALYSIS.run(made)
    layers = table.details["layers"]
    for label, windows in calibration.texts(made).items():
        profile, _ = algorithm1.naive(made.engine, windows, BATCH, progress=False)
        for budget in (8, 11):
            wanted = alloc_l(np.asarray(profile), budget, "ratio", exact=True)
            assert layers[label][str(budget)] == list(wanted), (label, budget)
    known = {r.plan: r for r in measured}
    for label, places in table.details["rows"].items():
        for budget, plan in places.items():
            assert known[plan].details["layers"] == layers[label][budget]
    assert len(known) == len(measured), "texts that lead to one plan share its measurement"


def test_less_and_less_of_the_first_text(tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl", calibrations=(text("usual", 1, 64),))
    found = calibration.texts(made)
    assert [len(t.ids) for t in found.values()] == [64, 16, 4, 1]
    assert all((t.ids == made.calibrations[0].ids[: len(t.ids)]).all() for t in found.values())
