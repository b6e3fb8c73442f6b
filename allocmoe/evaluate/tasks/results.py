"""What comes back: per item right or wrong, or a score, and the means of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.loading import Member
from allocmoe.evaluate.tasks.spec import TaskSpec

Result = dict[str, list[Any]]
"""{"ids": [...], "correct": [0 or 1, ...]}, or {"ids": [...], "score": [0..1, ...]}."""


def result(spec: TaskSpec, parts: Sequence[tuple[Member, Sequence[Mapping[str, Any]]]]) -> Result:
    """A data set's items, from the rows that lm-eval logs for its tasks.

    Ids are places in the task; where the data set is not one task of its name, "task/place".
    Raises AllocMoEError for an item that is not what the spec says.
    """
    ids: list[Any] = []
    values: list[float] = []
    for member, rows in parts:
        mine = sorted((row for row in rows if row["filter"] == member.filter), key=lambda row: row["doc_id"])
        whole = member.name == spec.name
        ids += [int(row["doc_id"]) if whole else f"{member.name}/{row['doc_id']}" for row in mine]
        values += [float(row[member.metric]) for row in mine]
    wrong = next((i for i, v in enumerate(values) if not 0 <= v <= 1), None)
    if wrong is not None:
        raise AllocMoEError(f"item {ids[wrong]} of {spec.name} scores {values[wrong]}, expected a number from 0 to 1")
    binary = all(v in (0, 1) for v in values) if spec.binary is None else spec.binary
    if not binary:
        return {"ids": ids, "score": values}
    between = next((i for i, v in enumerate(values) if v not in (0, 1)), None)
    if between is not None:
        raise AllocMoEError(f"item {ids[between]} of {spec.name} scores {values[between]}, expected 0 or 1")
    return {"ids": ids, "correct": [int(v) for v in values]}


def values(one: Mapping[str, Sequence[Any]]) -> Sequence[float]:
    """Per item the number that a mean is taken of."""
    return one["score"] if "score" in one else one["correct"]


def scores(results: Mapping[str, Result], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """`acc/<data set>`, `group/<group>` (mean over its data sets) and `group/mean` (mean over groups)."""
    found = {f"acc/{name}": math.fsum(values(one)) / len(one["ids"]) for name, one in results.items()}
    means = {f"group/{g}": sum(found[f"acc/{n}"] for n in names) / len(names) for g, names in groups.items()}
    return {**found, **means, "group/mean": sum(means.values()) / len(means)}
