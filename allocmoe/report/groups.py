"""Records grouped by what may be compared: one model, one setup, one machine with its versions, one origin of plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from allocmoe import documents, records
from allocmoe.records import Record, views
from allocmoe.report.style import ORIGINAL, rank

NOTED = ("gpu", "processor", "cores", "threads", "cuda", "driver", "system")
"""What tells machines apart in a label, the most telling first; versions follow."""
LONGEST = 40


@dataclass(frozen=True)
class Group:
    """Records that may be compared, the latest per method and budget.

    Attributes:
        about: "quality", "speed" or "profile".
        label: model and text, or model and engine, and what sets it apart; distinct among the groups.
        setup: as recorded; without the session.
        machine: machine, device and versions, flat.
        owner: name and fingerprint of the model whose plans were transplanted onto this one; empty where the
            plans are its own.
        records: ordered as in METHODS, then by budget.
        originals: records of the method `original`, per session ("" where there is none).
        repeats: how many older records of the same method and budget were left out.
    """

    about: str
    label: str
    model: str
    fingerprint: str
    setup: dict[str, Any]
    machine: dict[str, Any]
    owner: dict[str, str]
    records: tuple[Record, ...]
    originals: dict[str, Record]
    repeats: int

    def find(self, method: str, budget: int) -> Record | None:
        """The record of a method at a budget, of the original at its own whatever is asked."""
        return next(
            (r for r in self.records if r.method == method and (r.budget == budget or method == ORIGINAL)), None
        )


def groups(found: Sequence[Record], about: str) -> list[Group]:
    """The comparable groups among the records about one thing, in order of first appearance."""
    members: dict[str, list[Record]] = {}
    for record in found:
        if record.about == about and (about == "profile" or (record.method and record.budget)):
            members.setdefault(documents.digest([records.conditions(record), owner(record)]), []).append(record)
    made = [_group(about, rows) for rows in members.values()]
    return [replace(group, label=_distinct(group, made)) for group in made]


def owner(record: Record) -> dict[str, str]:
    """Name and fingerprint of the model whose plan was transplanted onto the measured one; empty for its own plan."""
    known = record.details.get("transplanted")
    return {key: str(known.get(key, "")) for key in ("model", "fingerprint")} if isinstance(known, dict) else {}


def apart(among: Sequence[Group]) -> list[tuple[list[str], dict[str, list[str]]]]:
    """Groups that only the machine keeps apart: their labels, and what differs with the value of each."""
    alike: dict[str, list[Group]] = {}
    for group in among:
        key = documents.digest([group.about, group.model, group.fingerprint, group.setup, group.owner])
        alike.setdefault(key, []).append(group)
    return [
        ([g.label for g in same], {key: [_said(g.machine, key) for g in same] for key in _differing(same)})
        for same in alike.values()
        if len(same) > 1
    ]


def _group(about: str, rows: Sequence[Record]) -> Group:
    newest = views.newest(rows, lambda r: (r.method, r.budget))
    ordered = tuple(sorted(newest.values(), key=lambda r: (rank(r.method or ""), r.budget or 0)))
    originals = views.newest([r for r in rows if r.method == ORIGINAL], lambda r: str(r.setup.get("session", "")))
    first = rows[0]
    setup, machine = views.setup(first), views.machine(first)
    label = " · ".join(str(part) for part in (first.model, setup.get("text") or setup.get("engine")) if part)
    repeats = len(rows) - len(ordered)
    return Group(
        about, label, first.model, first.fingerprint, setup, machine, owner(first), ordered, originals, repeats
    )


def _distinct(group: Group, among: Sequence[Group]) -> str:
    """The label with what sets the group apart from those of the same label: weights, plans, setup, machine."""
    same = [g for g in among if g.label == group.label]
    parts = [group.label]
    if len({g.fingerprint for g in same}) > 1:
        parts.append(f"weights {group.fingerprint[:8]}")
        same = [g for g in same if g.fingerprint == group.fingerprint]
    if len({str(g.owner) for g in same}) > 1:
        parts.append(_planned(group, same))
        same = [g for g in same if g.owner == group.owner]
    keys = sorted({k for g in same for k in g.setup if len({str(h.setup.get(k)) for h in same}) > 1})
    if "tasks" in keys:  # then the digest of their items differs too, and says less
        keys = [key for key in keys if key != "task_items"]
    parts += [f"{key} {_set(group.setup.get(key))}"[:LONGEST] for key in keys]
    return " · ".join(parts + [f"{key} {_said(group.machine, key)}" for key in _telling(same)])


def _set(value: Any) -> str:
    """A setting in a label: of tasks, how many items of each."""
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, Mapping) else str(value)


def _planned(group: Group, same: Sequence[Group]) -> str:
    if not group.owner:
        return "its own plans"
    namesakes = {g.owner["fingerprint"] for g in same if g.owner and g.owner["model"] == group.owner["model"]}
    weights = f" {group.owner['fingerprint'][:8]}" if len(namesakes) > 1 else ""
    return f"plans of {group.owner['model']}{weights}"


def _differing(same: Sequence[Group]) -> list[str]:
    keys = dict.fromkeys([*NOTED, *(key for g in same for key in g.machine)])
    return [key for key in keys if len({_said(g.machine, key) for g in same}) > 1]


def _telling(same: Sequence[Group]) -> list[str]:
    """As many of the differing keys as tell the machines apart, the most telling first."""
    keys = _differing(same)
    wanted = len({_values(g, keys) for g in same})
    return next(keys[:n] for n in range(len(keys) + 1) if len({_values(g, keys[:n]) for g in same}) == wanted)


def _values(group: Group, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_said(group.machine, key) for key in keys)


def _said(values: Mapping[str, Any], key: str) -> str:
    return str(values.get(key, "not recorded"))
