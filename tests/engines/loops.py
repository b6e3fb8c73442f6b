"""The token rules of a layer as plain loops in float64, one candidate at a time; and scores to try them on."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from allocmoe.plan import Plan
from allocmoe.routing import RULES, Parameter

LOGIT_RULES = ("refill", "alloc_t_refill", "cap")
"""Rules that look beyond the K candidates."""
Kept = list[dict[int, float]]
Rows = dict[int, list[tuple[float, int]]]  # token -> its candidates (weight, expert), heaviest first
Scores = dict[int, list[float]]  # token -> one number an expert
TOP, EXPERTS = 4, 12
TOKEN_RULES = ("top_k", "alloc_t", "top_p", "naee", "adapmoe", "xmoe", "threshold")
"""Rules that keep some of the K candidates and need no more than these."""
BUDGETS = {"alloc_t": 2.5, "alloc_t_refill": 1.75}
FEW = {"pairs": 3, "refill_tokens": 20}
PARAMETERS: dict[str, dict[str, Any]] = {
    "alloc_t": {"k_base": 1}, "top_p": {"threshold": (0.25,)}, "naee": {"threshold": (0.5,)},
    "adapmoe": {"threshold": 0.0625, "fisher": (0.5,)}, "xmoe": {"threshold": 0.25},
    "threshold": {"threshold": (0.125,), "k_base": 1},
    "prune": {"kept": ((0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0),)},
    "refill": FEW, "alloc_t_refill": {"k_base": 1, **FEW}, "cap": {"experts": (6,), **FEW},
}  # fmt: skip


def plan(token_rule: str, **changes: Any) -> Plan:
    """A plan of one layer, with a budget that suits its rule; `parameters` change only what they name."""
    values: dict[str, Any] = {
        "method": token_rule,
        "budget": TOP,
        "layers": (BUDGETS.get(token_rule, 2.0),),
        "top_k": TOP,
        "token_rule": token_rule,
        "fingerprint": "0123456789abcdef",
        "family": "olmoe",
        "experts": EXPERTS,
    }
    parameters = PARAMETERS.get(token_rule, {}) | changes.pop("parameters", {})
    return Plan(**(values | changes), parameters=parameters)


def strongest_of_the_batch(rows: Rows, numbers: dict[str, Any]) -> dict[int, int]:
    k, base = numbers["k"], min(numbers["k_base"], math.floor(numbers["k"]))
    count = dict.fromkeys(rows, base)
    rest = sorted((-rows[t][j][0], t, j) for t in rows for j in range(base, len(rows[t])))
    for _, t, _ in rest[: math.floor(k * len(rows) + 1e-6) - base * len(rows)]:
        count[t] += 1
    return count


def first(count: Any) -> Any:
    """The oracle of a rule that keeps the first so many of each token's candidates."""

    def chosen(rows: Rows, numbers: dict[str, Any], logits: Tensor | None) -> Rows:
        counts = count(rows, numbers)
        return {t: row[: counts[t]] for t, row in rows.items()}

    return chosen


def best_of_those_that_stay(rows: Rows, numbers: dict[str, Any], logits: Tensor | None) -> Rows:
    """Prune: the router without the experts that are gone, ties to the lower id."""
    assert logits is not None
    found = {}
    for t, row in rows.items():
        worth = {e: math.exp(float(logits[t, e])) for e, stays in enumerate(numbers["kept"]) if stays}
        best = sorted(worth, key=lambda e: (-worth[e], e))[: len(row)]
        found[t] = [(worth[e] / math.fsum(worth.values()), e) for e in best]
    return found


def softmax(row: list[float]) -> list[float]:
    parts = [math.exp(v - max(row)) for v in row]
    return [p / math.fsum(parts) for p in parts]


def filled(own: Rows, offered: Rows, order: Scores, mass: Scores, opened: set[int], most: float) -> Rows:
    """Each token's own pairs, then its best opened experts, one by one, until it has `most`."""
    found = {}
    for t, pairs in own.items():
        weights, mine = {e: w for w, e in offered[t]}, list(pairs)
        for score, expert in sorted((-order[t][e], e) for e in opened - {e for _, e in pairs}):
            if len(mine) < most and score < math.inf:
                mine.append((weights.get(expert, mass[t][expert]), expert))
        found[t] = mine
    return found


def refill(base: str) -> Any:
    """The oracle of refill over a base; order and mass are a softmax of the logits unless given."""

    def chosen(rows: Rows, numbers: dict[str, Any], logits: Any, order: Any = None, mass: Any = None) -> Rows:
        own = ORACLES[base](rows, numbers, logits)
        if len(rows) > numbers["refill_tokens"]:
            return own
        scores = {t: softmax(logits[t].double().tolist()) for t in rows}
        opened = {expert for pairs in own.values() for _, expert in pairs}
        return filled(own, rows, order or scores, mass or scores, opened, min(TOP, numbers["pairs"]))

    return chosen


def most_score_of_the_batch(order: Scores, mass: Scores, count: float) -> set[int]:
    """The experts that cap opens, one after another."""
    if not order:
        return set()
    opened = {max(range(len(row)), key=lambda e: (row[e], -e)) for row in order.values()}
    usable = {t: [w if order[t][e] > -math.inf else 0.0 for e, w in enumerate(mass[t])] for t in order}
    total = [math.fsum(column) for column in zip(*usable.values(), strict=True)]
    for expert in sorted(range(len(total)), key=lambda e: (-total[e], e)):
        if len(opened) < count:
            opened.add(expert)
    return opened


def cap(rows: Rows, numbers: dict[str, Any], logits: Any, order: Any = None, mass: Any = None) -> Rows:
    if len(rows) > numbers["refill_tokens"]:
        return ORACLES["top_k"](rows, numbers, logits)
    scores = {t: softmax(logits[t].double().tolist()) for t in rows}
    order, mass = order or scores, mass or scores
    opened = most_score_of_the_batch(order, mass, numbers["experts"])
    return filled({t: [] for t in rows}, rows, order, mass, opened, min(TOP, numbers["pairs"]))


ORACLES: dict[str, Any] = {
    "top_k": first(lambda rows, numbers: dict.fromkeys(rows, int(numbers["k"]))),
    "alloc_t": first(strongest_of_the_batch),
    "top_p": first(lambda rows, n: {t: first_beyond([w for w, _ in row], n["threshold"]) for t, row in rows.items()}),
    "naee": first(lambda rows, n: {t: near_the_first([w for w, _ in row], n["threshold"]) for t, row in rows.items()}),
    "adapmoe": first(lambda rows, n: {t: but_a_cheap_tail([w for w, _ in row], n) for t, row in rows.items()}),
    "xmoe": first(lambda rows, n: {t: first_beyond([w for w, _ in row], n["threshold"]) for t, row in rows.items()}),
    "threshold": first(lambda rows, n: {t: from_a_score_on([w for w, _ in row], n) for t, row in rows.items()}),
    "prune": best_of_those_that_stay,
    "refill": refill("top_k"),
    "alloc_t_refill": refill("alloc_t"),
    "cap": cap,
}
"""Every token rule by its definition: candidates per token, numbers of the layer and logits [T, N] in, what each token
keeps out."""


def kept_by_hand(
    weights: Tensor, ids: Tensor, plan: Plan, real: Tensor | None = None, layer: int = 0, logits: Tensor | None = None
) -> Kept:
    """What one layer of a plan keeps: for every row {expert id: combine weight}, nothing for padding."""
    tokens = [t for t in range(len(ids)) if real is None or bool(real[t])]
    numbers = plan.numbers(layer)
    rows = {t: ordered(weights[t], ids[t], numbers.get("norms")) for t in tokens}
    chosen = ORACLES[plan.token_rule](rows, numbers, logits)
    found: Kept = [{} for _ in ids]
    for t in tokens:
        own = dict(zip(ids[t].tolist(), weights[t].double().tolist(), strict=True))
        kept = {expert: own.get(expert, w) if "norms" in numbers else w for w, expert in chosen[t]}
        scale = made_up(list(own.values()), list(kept.values()), plan.reference) * numbers.get("scale", 1.0)
        found[t] = {expert: w * scale for expert, w in kept.items()}
    return found


def made_up(whole: list[float], kept: list[float], reference: str) -> float:
    """What the kept weights are multiplied with, so that they carry the mass that the reference says."""
    if reference == "original" or not math.fsum(kept) > 0:
        return 1.0
    heaviest = sorted(whole, reverse=True)[: int(reference.removeprefix("top-"))] if "top" in reference else []
    return math.fsum(whole) / max(math.fsum(kept), math.fsum(heaviest))


def ordered(weights: Tensor, ids: Tensor, norms: Any = None) -> list[tuple[float, int]]:
    """A token's candidates with what they are chosen by, the best first, ties as the router had them."""
    pairs = [
        (w * (norms[e] if norms else 1.0), e) for w, e in zip(weights.double().tolist(), ids.tolist(), strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair[0])


def first_beyond(row: list[float], threshold: float) -> int:
    """Top-P: up to and including the first at which the cumulative score exceeds P."""
    so_far = 0.0
    for j, w in enumerate(row):
        so_far += w
        if so_far > threshold:
            return j + 1
    return len(row)


def from_a_score_on(weights: list[float], numbers: dict[str, Any]) -> int:
    return sum(1 for j, weight in enumerate(weights) if j < numbers["k_base"] or weight >= numbers["threshold"])


def near_the_first(row: list[float], beta: float) -> int:
    """NAEE: rank 1 always, a later rank unless it is below beta times the first; where all are zero, they are alike."""
    return 1 + sum((w / row[0] if row[0] > 0 else 1.0) >= beta for w in row[1:])


def but_a_cheap_tail(row: list[float], numbers: dict[str, Any]) -> int:
    """AdapMoE, in fractions: but the longest tail, never the first, with (its mass / the candidates')^2 h_l <= T."""
    masses, whole = [Fraction(w) for w in row], sum(map(Fraction, row))
    for j in range(1, len(row)):
        share = sum(masses[j:]) / whole if whole else 0
        if share * share * Fraction(numbers["fisher"]) <= Fraction(numbers["threshold"]):
            return j
    return len(row)


def kept(weights: Tensor, ids: Tensor, dropped: int) -> Kept:
    """The same of a rule's answer; a dropped pair must weigh nothing, a kept one must be kept once."""
    found: Kept = []
    for row, names in zip(weights.double().tolist(), ids.tolist(), strict=True):
        assert all(w == 0 for w, name in zip(row, names, strict=True) if name == dropped)
        chosen = [(name, w) for w, name in zip(row, names, strict=True) if name != dropped]
        assert len(dict(chosen)) == len(chosen)
        found.append(dict(chosen))
    return found


def assert_same(ours: Kept, theirs: Kept) -> None:
    """The same experts for every row, at the same weights up to rounding in float32."""
    assert [sorted(row) for row in ours] == [sorted(row) for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for expert, weight in mine.items():
            assert math.isclose(weight, other[expert], rel_tol=1e-5, abs_tol=1e-9)


@st.composite
def candidates(draw: st.DrawFn, tokens: int = 6) -> tuple[Tensor, Tensor]:
    """Combine weights and ids [T, TOP], unsorted. Whole 32nds, and the first of a row a power of two:
    sums and ratios are exact, and ties are everywhere, as in bf16."""
    rows, names = [], []
    for _ in range(draw(st.integers(1, tokens))):
        first = draw(st.sampled_from([0, 1, 4, 8, 16]))
        rest = draw(st.lists(st.integers(0, first), min_size=TOP - 1, max_size=TOP - 1))
        rows.append(draw(st.permutations([first, *rest])))
        names.append(draw(st.permutations(range(EXPERTS)))[:TOP])
    return torch.tensor(rows).float() / 32, torch.tensor(names, dtype=torch.int32)


def values(parameter: Parameter) -> st.SearchStrategy[Any]:
    """A parameter of a plan of one layer, on the same grid as `candidates`."""
    if parameter.whole:
        return st.integers(0, TOP + 1)
    number = st.integers(0 if parameter.least == 0 else -4, 80).map(lambda n: n / 32)
    return number if parameter.per == "plan" else st.tuples(number)


@st.composite
def plans(
    draw: st.DrawFn, token_rule: str | None = None, reference: str | None = None, weighed: bool | None = None
) -> Plan:
    """A plan of one layer under any rule, its limits on the same grid as `candidates`; with norms, where its rule can
    have them, and a factor if it is `weighed`, None for either."""
    rule = token_rule or draw(st.sampled_from(TOKEN_RULES))
    whole = st.integers(1, TOP - RULES[rule].untouched).map(float)  # at K the router's answer stays, padding too

    def of(wanted: bool | None) -> bool:
        return draw(st.booleans()) if wanted is None else wanted

    fraction = st.integers(1, 12).flatmap(lambda d: st.integers(d, TOP * d).map(lambda n: n / d))
    return plan(
        rule,
        layers=(draw(whole if RULES[rule].whole else fraction),),
        parameters={name: draw(values(RULES[rule].parameters[name])) for name in PARAMETERS.get(rule, {})},
        reference=reference or draw(st.sampled_from(["original", "survivors", "top-1", "top-3"])),
        norms=(draw(NORMS),) if RULES[rule].by_scores and of(weighed) else (),
        scale=(draw(st.sampled_from([0.75, 1.5])),) if of(weighed) else (),
    )


NORMS = st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 3.0]), min_size=EXPERTS, max_size=EXPERTS).map(tuple)
"""Of the experts of a layer: products with weights of `candidates` are exact."""


def masks(rows: int) -> st.SearchStrategy[Tensor | None]:
    """Which rows are real: None, or any subset, none at all included."""
    some = st.lists(st.booleans(), min_size=rows, max_size=rows).map(lambda r: torch.tensor(r, dtype=torch.bool))
    return st.none() | some
