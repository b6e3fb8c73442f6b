"""Specs refuse nonsense; pinned places are spread evenly."""

from __future__ import annotations

from itertools import pairwise

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.spec import TaskSpec, spread


@pytest.mark.parametrize("total", [1, 7, 500, 1319])
@pytest.mark.parametrize("seed", [0, 1, 5000])
def test_places_are_spread_evenly_and_stay_the_same(total: int, seed: int) -> None:
    for count in {1, min(7, total), min(100, total), total}:
        places = spread(total, count, seed)
        assert places == spread(total, count, seed) == sorted(set(places))
        assert len(places) == count
        assert 0 <= places[0] <= places[-1] < total
        gaps = [b - a for a, b in pairwise([*places, places[0] + total])]
        assert max(gaps) - min(gaps) <= 1
    assert spread(total, 10 * total, seed) == list(range(total))


def test_the_seed_moves_the_places() -> None:
    assert spread(500, 100, 1) != spread(500, 100, 0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"group": "magic"}, "unknown group 'magic'"), ({"chance": 1.0}, "1.0"), ({"chance": -0.1}, "-0.1")],
)
def test_nonsense_is_refused(fields: dict, says: str) -> None:
    with pytest.raises(AllocMoEError, match=says):
        TaskSpec("one", **fields)


def test_what_lm_eval_is_asked_for() -> None:
    assert TaskSpec("boolq").asked == ("boolq",)
    assert TaskSpec("arc", tasks=("arc_easy", "arc_challenge")).asked == ("arc_easy", "arc_challenge")
