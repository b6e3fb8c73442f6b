"""Rules that read the logits, by their definition: token by token in float64, experts chosen by their logits."""

from __future__ import annotations

import numpy as np
import torch

from tests.routing.kernels.drawn import Pass

Rows = list[dict[int, float]]
NEAR = 1e-5
"""Nearer to each other than this, rounding may decide between two scores that are not equal."""


def number(offered: Pass, name: str) -> float:
    return float(offered.numbers[name])


def real(offered: Pass) -> list[int]:
    return [t for t in range(len(offered.ids)) if offered.valid is None or offered.valid[t]]


def softmax(row: np.ndarray) -> np.ndarray:
    parts = np.exp(row - row.max())
    return parts / parts.sum()


def scored(offered: Pass, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one token: what experts are chosen by, -inf where a group is closed; and combine weights."""
    assert offered.logits is not None
    how, row = offered.scoring, offered.logits[t].double().numpy()
    raw = softmax(row) if how.function == "softmax" else 1 / (1 + np.exp(-row))
    chosen = row.copy() if how.bias is None else raw + how.bias.double().numpy()
    if how.open_groups < how.groups:
        parts = chosen.reshape(how.groups, -1)  # a view
        worth = np.sort(parts)[:, -1 if how.bias is None else -2 :].sum(1)
        parts[np.argsort(-worth, kind="stable")[how.open_groups :]] = -np.inf
    mass = raw / raw[offered.ids[t].numpy()].sum() if how.renormalise else raw
    return chosen, mass * how.scale


def own_weights(offered: Pass, t: int) -> dict[int, float]:
    return {int(e): float(w) for e, w in zip(offered.ids[t], offered.weights[t], strict=True)}


def base(offered: Pass) -> Rows:
    """What the base keeps of every token."""
    under = offered.other("alloc_t" if offered.rule == "alloc_t_refill" else "top_k")
    weights, ids = under.reference()
    kept = real(offered)
    return [
        {int(e): float(w) for e, w in zip(ids[t], weights[t], strict=True) if e != offered.dropped} if t in kept else {}
        for t in range(len(ids))
    ]


def cap(offered: Pass) -> set[int]:
    """Every token's first expert, and those of most summed weight."""
    opened: set[int] = set()
    total = 0.0
    for t in real(offered):
        chosen, mass = scored(offered, t)
        opened.add(int(np.argmax(chosen)))
        total = total + np.where(chosen == -np.inf, 0.0, mass)
    if not opened:
        return opened
    for expert in np.argsort(-np.float32(total), kind="stable"):
        if len(opened) < number(offered, "experts"):
            opened.add(int(expert))
    return opened


def kept(offered: Pass) -> Rows:
    """Each token's experts and weights, in the order in which a row has them."""
    if offered.rule == "prune":
        return pruned(offered)
    own, tokens = base(offered), real(offered)
    if len(tokens) > number(offered, "refill_tokens"):
        alone = offered.valid is None and not isinstance(offered.numbers["refill_tokens"], torch.Tensor)
        return own if alone else [dict(sorted(row.items())) for row in own]
    opened = set().union(*own) if own else set()
    if offered.rule == "cap":
        opened, own = cap(offered), [{} for _ in own]
    found: Rows = [{} for _ in own]
    for t in tokens:
        chosen, mass = scored(offered, t)
        weights = own_weights(offered, t)
        found[t] = dict(sorted(own[t].items()))
        most = min(number(offered, "pairs"), offered.ids.shape[1])
        for e in sorted(opened - set(own[t]), key=lambda e: (-chosen[e], e)):
            if len(found[t]) < most and chosen[e] > -np.inf:
                found[t][e] = weights.get(e, float(mass[e]))
    return found


def pruned(offered: Pass) -> Rows:
    """A softmax over the experts that stay, scaled as the router scales its own."""
    assert offered.logits is not None
    found: Rows = [{} for _ in offered.ids]
    for t in real(offered):
        row, K = offered.logits[t].double().numpy(), offered.ids.shape[1]
        left = np.where(np.asarray(offered.numbers["kept"]) > 0, row, -np.inf)
        best = np.argsort(-left, kind="stable")[:K]
        weights, own = softmax(left)[best], 1.0
        if offered.scoring.renormalise:
            weights = weights / weights.sum()
        else:
            own = softmax(row)[offered.ids[t].numpy()].sum()
        factor = float(offered.weights[t].double().sum()) / own
        weights = weights * (1.0 if abs(factor - 1) < 1 / 64 else factor)
        found[t] = dict(zip(best.tolist(), weights.tolist(), strict=True))
    return found


def clear(offered: Pass) -> bool:
    """Whether no choice between unequal scores is so near that float32 decides it."""
    rows = [scored(offered, t) for t in real(offered)]
    if offered.rule == "prune":
        return True
    if offered.scoring.bias is not None and any(near(chosen) for chosen, _ in rows):
        return False
    if offered.rule != "cap" or len(rows) < 2:
        return True
    assert offered.logits is not None
    columns = np.array([np.where(c == -np.inf, -np.inf, offered.logits[t].double()) for (c, _), t in
                        zip(rows, real(offered), strict=True)])  # fmt: skip
    total = np.array([np.where(c == -np.inf, 0, mass) for c, mass in rows]).sum(0)
    order = np.argsort(total, kind="stable")
    same = (columns[:, order[1:]] == columns[:, order[:-1]]).all(0)
    return bool((same | (np.diff(total[order]) > NEAR * total[order[1:]])).all())


def near(chosen: np.ndarray) -> bool:
    """Whether two scores, or two sums of two, lie near each other."""
    ranked = np.sort(chosen[chosen > -np.inf])
    return bool((np.diff(ranked) < NEAR / 10).any())
