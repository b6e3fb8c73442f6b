"""What the page says first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocmoe.records import Record
from allocmoe.report import answer
from allocmoe.report.results import Quality, results
from tests.report.made import decoded, onto, plans, quality, speed, tuned

pytestmark = pytest.mark.whole

AHEAD = "No method is ahead of Alloc-MoE at a budget where both were measured."
FEW = plans("uniform", "alloc-t", "alloc-moe")


def group(*made: Record) -> Quality:
    (found,) = results(list(made)).quality
    return found


def worse(record: Record, nats: float) -> Record:
    """As if its perplexity were so many nats higher."""
    nll = [v + nats for v in record.samples["nll"]]
    metrics = record.metrics | {"perplexity": record.metrics["perplexity"] * 2.718281828459045**nats}
    return replace(record, samples={**record.samples, "nll": nll}, metrics=metrics)


def test_half_is_the_nearest_budget_and_the_pick_has_the_lowest_perplexity():
    q = group(*(quality(*p) for p in FEW))
    assert answer.half(q.rows) == 24
    best = answer.pick(q)
    assert best is not None
    assert (best.method, best.budget) == ("alloc-moe", 24)
    lost = group(*(worse(quality(*p), 0.5) if p[0] == "alloc-moe" else quality(*p) for p in FEW))
    assert answer.pick(lost).method == "alloc-t"  # type: ignore[union-attr]


def test_who_spends_more_than_the_budget_is_not_picked():
    made = [quality(*p) for p in FEW]
    pruned = group(*(replace(r, spent={"per_token": 48.0}) if r.method == "alloc-moe" else r for r in made))
    assert answer.pick(pruned).method == "alloc-t"  # type: ignore[union-attr]


@pytest.mark.parametrize(("spent", "chosen"), [(24.4, "alloc-moe"), (24.6, "alloc-t")])
def test_a_threshold_that_spends_over_two_percent_more_is_not_picked(spent, chosen):
    made = [quality(*p) for p in FEW]
    q = group(*(replace(r, spent={"per_token": spent}) if r.method == "alloc-moe" else r for r in made))
    assert answer.pick(q).method == chosen  # type: ignore[union-attr]


def test_as_if_decoding_the_price_is_distinct_experts():
    experts = {"original": 40.0, "uniform": 25.0, "alloc-moe": 24.0, "alloc-moe-refill": 24.5, "xshare": 30.0}
    made = [decoded(m, 48 if m == "original" else 24, d) for m, d in experts.items()]
    refilled = [replace(r, spent={**r.spent, "per_token": 48.0}) if r.method == "alloc-moe-refill" else r for r in made]
    assert {r.method for r in answer.rivals(group(*refilled), 24)} == {"uniform", "alloc-moe", "alloc-moe-refill"}


def test_it_says_first_where_alloc_moe_does_not_win():
    timed = {("uniform", 24): 1.3, ("alloc-moe", 24): 1.2}
    made = [worse(quality(*p), 0.5) if p == ("alloc-moe", 16) else quality(*p) for p in FEW]
    speeds = [onto(r) for r in (speed(*p) for p in FEW)]
    found = results([*made, *speeds])
    (choice,) = found.choices
    assert choice.honest.startswith(
        "Alloc-MoE does not win everywhere. Lower perplexity at 1 of 4 budgets: Alloc-T at 16 (shown)."
    )
    rows = {
        key: replace(found.speed[0].rows[0], decode=found.speed[0].rows[0].decode._replace(estimate=value))
        for key, value in timed.items()
    }
    told = answer.honesty(found.quality[0], rows)
    assert told.endswith("Faster decode at 24: uniform, 1.30\u00d7 against 1.20\u00d7.")


def test_where_it_wins_everywhere_it_says_that():
    bare = [replace(r, metrics={"perplexity": r.metrics["perplexity"]}) for r in (quality(*p) for p in FEW)]
    assert answer.honesty(group(*bare), {}) == AHEAD
    for names in (("uniform", "alloc-t"), ("alloc-moe",)):  # not measured, and beside no other: nothing is claimed
        assert answer.honesty(group(bare[0], *(r for r in bare if r.method in names)), {}) == ""


def test_a_higher_accuracy_is_told_with_whether_it_is_shown():
    other = {("alloc-moe", 24): "uniform", ("uniform", 24): "alloc-moe"}
    swapped = [
        replace(r, method=other.get((r.method or "", r.budget or 0), r.method)) for r in (quality(*p) for p in FEW)
    ]
    told = answer.honesty(group(*swapped), {})
    assert "Higher accuracy at 1 of 4 budgets: uniform at 24 (shown)." in told
    assert "Lower perplexity at 1 of 4 budgets: uniform at 24 (shown)." in told
    assert answer.honesty(group(*(quality(*p) for p in FEW)), {}) == AHEAD, "equal accuracies are not ahead"


def test_without_quality_it_says_what_is_fastest():
    (s,) = results([speed(*p) for p in FEW]).speed
    assert answer.speed(s).startswith("Fastest at about half: uniform at 24, 50% of the activations: prefill ")
    assert answer.speed(s).endswith("Its quality was not measured.")


def test_where_a_budget_has_nothing_to_pick_the_next_one_has():
    made = [quality("original", 48), quality("uniform", 40), replace(quality("oea", 24), spent={"per_token": 48.0})]
    best = answer.pick(group(*made))
    assert best is not None
    assert (best.method, best.budget) == ("uniform", 40)


def test_what_a_search_found_for_a_wish_is_the_answer():
    made = [quality(*p) for p in FEW]
    asked = replace(tuned(), method="uniform", budget=32, plan="uniform-32")
    (choice,) = results([*made, asked]).choices
    assert (choice.about["pick"], choice.about["where"]) == ("uniform@32", "1.3x faster: ")
    assert choice.picked is not None
    assert choice.picked["tiles"]["perplexity"] == ["+2.5 %", "+1.9 to +3.1", "perplexity, at the end"]
    older = replace(asked, budget=24, plan="uniform-24", created="2020-01-01T00:00:00+00:00")
    (choice,) = results([*made, asked, older]).choices
    assert choice.about["pick"] == "uniform@32", "the search that was made last, wherever it stands"
    (choice,) = results([*made, replace(asked, plan="of another")]).choices
    assert (choice.about["pick"], choice.about["where"]) == (
        "alloc-moe@24",
        "At half of the activations the best method is",
    )
