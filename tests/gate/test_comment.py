"""The gate as a comment on a pull request."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from measured import slower

from allocmoe import history
from allocmoe.gate import compare
from allocmoe.gate.comment import BLOCKS, COMMITS, comment, sparkline
from allocmoe.history import Commit, Point, Series
from allocmoe.records import Record


def tabled(text: str) -> dict[str, list[str]]:
    """The cells of every row, by its first one."""
    lines = [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines if cells[0] != "---"}


def past(row: object, *values: float) -> Series:
    key = row.key  # type: ignore[attr-defined]
    commits = tuple(Commit(f"{n:040d}", "2026-01-01T00:00:00+00:00", False, n) for n in range(len(values)))
    points = tuple(Point(c, (v,)) for c, v in zip(commits, values, strict=True))
    engine = "vllm" if key.model.endswith("@vllm") else "transformers"
    return Series(key.model.partition("@")[0], key.method, key.budget, key.metric, engine, "", points, commits)


def test_the_worst_stands_first_and_what_passes_is_folded(old: list[Record], new: list[Record]):
    text = comment(compare(slower(new, 1.1), old))
    assert text.startswith("### allocmoe: regressed (")
    before, folded = text.split("<details>")
    worse = [name for name, cells in tabled(before).items() if "**regressed**" in cells]
    assert worse
    assert not [name for name, cells in tabled(folded).items() if "**regressed**" in cells]
    assert set(tabled(before)) - {"row"} == {r.name for r in compare(slower(new, 1.1), old).rows if r.verdict != "pass"}
    assert all(f"- {name}: " in before for name in worse)


def test_the_noise_floor_is_what_would_be_detected(old: list[Record], new: list[Record]):
    gate = compare(new, old)
    cells = tabled(comment(gate))
    for row in gate.rows:
        floor = cells[row.name][4]
        if math.isfinite(row.detectable) and math.isfinite(row.p):
            assert float(floor.split()[0]) == pytest.approx(row.detectable, abs=0.06)
        elif math.isfinite(row.change):
            assert floor == "none: it repeats"


def test_a_row_is_drawn_over_its_own_commits_only(old: list[Record], new: list[Record]):
    gate = compare(new, old)
    row = next(r for r in gate.rows if r.key.metric == "perplexity")
    mine = past(row, *range(1, COMMITS + 6))
    cells = tabled(comment(gate, [mine, replace(past(row, 1.0, 2.0), method="another")]))
    assert cells[row.name][5].strip("`")[0] == BLOCKS[0]
    assert cells[row.name][5].strip("`")[-1] == BLOCKS[-1]
    assert len(cells[row.name][5].strip("`")) == COMMITS
    assert [name for name, found in cells.items() if found[5].startswith("`")] == [row.name]


def test_records_of_two_commits_are_drawn(old: list[Record], new: list[Record]):
    later = {"hash": "f" * 40, "date": "2030-01-01T00:00:00+00:00", "dirty": False}
    moved = [replace(r, environment={**r.environment, "commit": later}) for r in new]
    cells = tabled(comment(compare(moved, old), history.series([*old, *moved])))
    assert any(len(found[5].strip("`")) == 2 for name, found in cells.items() if name != "row")


@pytest.mark.parametrize(("values", "blocks"), [([1, 2], "▁█"), ([3, 3, 3], "▄▄▄"), ([0, 7, 3.5], "▁█▅"), ([5], "▄")])
def test_a_sparkline_goes_from_the_lowest_to_the_highest(values: list[float], blocks: str):
    assert sparkline(values) == blocks
