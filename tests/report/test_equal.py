"""Methods at equal distinct experts, against windows interpolated one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import scipy.stats

from allocmoe.records import Record
from allocmoe.report.equal import Line, settings
from allocmoe.report.groups import groups
from allocmoe.stats import perplexity_ratio
from tests.report.made import BUDGETS, WHOLE, decoded, plans, quality

COUNTS = {
    "uniform": (33.0, 29.0, 22.0, 15.0),
    "oea": (33.5, 28.0, 23.0, 14.0),
    "alloc-moe-refill": (31.0, 26.0, 20.0, 16.0),
}
ROWS = [("original", WHOLE, 38.0), *((m, b, d) for m, ds in COUNTS.items() for b, d in zip(BUDGETS, ds, strict=True))]
RECORDS = [decoded(*row) for row in ROWS]


def interpolated(method: str, experts: float) -> list[float]:
    """Each window by itself, over the plans of the method and the unchanged model."""
    mine = sorted((row[2], r.samples["nll"]) for row, r in zip(ROWS, RECORDS, strict=True)
                  if row[0] in (method, "original"))  # fmt: skip
    counts, losses = [d for d, _ in mine], [nll for _, nll in mine]
    return [float(np.interp(experts, counts, window)) for window in zip(*losses, strict=True)]


def found(records: list[Record]) -> list:
    (group,) = groups(records, "quality")
    return settings(group)


def test_every_method_is_read_off_its_own_line_window_by_window():
    among = found(RECORDS)
    assert [(s.budget, s.distinct) for s in among] == list(zip(BUDGETS, COUNTS["uniform"], strict=True))
    whole = RECORDS[0].samples["nll"]
    for setting in among:
        for method in COUNTS:
            if min(COUNTS[method]) > setting.distinct:
                assert method not in setting.nll
                assert not np.isfinite(setting.ratio(method).estimate)
                continue
            wanted = interpolated(method, setting.distinct)
            assert setting.nll[method] == pytest.approx(wanted, rel=1e-12)
            ratio = setting.ratio(method)
            assert ratio.estimate == pytest.approx(np.exp(fmean(wanted) - fmean(whole)))
            assert ratio == pytest.approx(perplexity_ratio(wanted, whole, [255] * 32))
        speedup = (33.9 + 2.908 * 38) / (33.9 + 2.908 * setting.distinct)
        assert setting.gained(setting.distinct) == pytest.approx(speedup)


def test_comparisons_are_paired_at_the_same_distinct_experts():
    first, *_, last = found(RECORDS)
    assert {c.other for c in first.compared("alloc-moe-refill")} == {"uniform", "oea"}
    assert last.compared("alloc-moe-refill") == [], "it was not measured with so few experts"
    for c in first.compared("alloc-moe-refill"):
        losses = (interpolated(m, first.distinct) for m in ("alloc-moe-refill", c.other))
        ratio = perplexity_ratio(*losses, [255] * 32)
        assert c.ratio == pytest.approx(ratio)
        shown = ratio.high < 1 or ratio.low > 1
        assert c.perplexity == (("better" if ratio.estimate < 1 else "worse") if shown else "~")


def test_divergences_are_read_off_lines_as_losses_are():
    """The same records with their losses under the other name, so that the lines are the same."""
    other = [replace(r, samples={**r.samples, "kl": r.samples["nll"], "nll": [1.0] * 32}) for r in RECORDS]
    (group,) = groups(other, "quality")
    for setting, wanted in zip(settings(group, "kl"), found(RECORDS), strict=True):
        assert setting.nll == wanted.nll
        assert setting.needed == wanted.needed
        for method in wanted.nll:
            change = setting.difference(method, "uniform")
            each = np.array(wanted.nll[method]) - np.array(wanted.nll["uniform"])
            half = scipy.stats.t.ppf(0.975, 31) * each.std(ddof=1) / math.sqrt(32)
            assert change == pytest.approx((each.mean(), each.mean() - half, each.mean() + half))
        assert not np.isfinite(setting.difference("no such", "uniform").estimate)


def test_at_equal_loss_a_line_is_crossed_where_a_fine_grid_finds_it():
    crossed = 0
    for setting in found(RECORDS):
        wanted = fmean(next(r for r in RECORDS if (r.method, r.budget) == ("uniform", setting.budget)).samples["nll"])
        assert setting.needed["uniform"] == setting.distinct
        for method in ("oea", "alloc-moe-refill"):
            grid = np.arange(min(COUNTS[method]), 38, 0.01)
            good = [d for d in grid if fmean(interpolated(method, d)) <= wanted]
            if good and good[0] > grid[0]:
                assert setting.needed[method] == pytest.approx(good[0], abs=0.011)
                crossed += 1
            else:
                assert method not in setting.needed
    assert crossed > 2


def test_a_line_ends_where_it_was_measured():
    line = Line((10.0, 20.0), ([1.0, 3.0], [2.0, 1.0]))
    assert line.at(10.0) == [1.0, 3.0]
    assert line.at(20.0) == [2.0, 1.0]
    assert line.at(12.5) == [1.25, 2.5]
    assert line.at(9.99) is None
    assert line.at(20.01) is None


def test_other_windows_are_not_on_the_line():
    odd = replace(RECORDS[-1], samples={**RECORDS[-1].samples, "window_tokens": [100] * 32})
    with_odd, without = found([*RECORDS[:-1], odd]), found(RECORDS[:-1])
    assert [s.nll for s in with_odd] == [s.nll for s in without]


def test_only_what_was_measured_as_if_decoding_is_compared():
    assert found([quality(*p) for p in plans("uniform", "alloc-moe-refill")]) == []
    assert found(RECORDS[1:]) == [], "without the unchanged model no line has its end"
