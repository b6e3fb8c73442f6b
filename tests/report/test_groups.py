"""Which records may be compared."""

from __future__ import annotations

from dataclasses import replace

from allocmoe.records import Record
from allocmoe.report.groups import apart, groups
from tests.report.made import ENVIRONMENT, onto, plans, quality, speed


def test_two_texts_are_two_series(records: list[Record]):
    both = [*records, *(quality(*p, text="Alice") for p in plans("uniform"))]
    assert [g.label for g in groups(both, "quality")] == ["mini-olmoe · generated stories", "mini-olmoe · Alice"]
    other = [replace(r, setup=r.setup | {"task_batch": 1}) for r in records if r.about == "quality"]
    labels = [g.label for g in groups([*records, *other], "quality")]
    assert [label.split(" · ")[-1] for label in labels] == ["task_batch 64", "task_batch 1"]


def test_machines_devices_and_versions_are_not_merged():
    one = [speed(*p) for p in plans("uniform")]
    worlds = [
        ENVIRONMENT | {"gpu": "NVIDIA H100", "driver": "1"},
        ENVIRONMENT | {"gpu": "NVIDIA H200", "driver": "2"},
        ENVIRONMENT | {"gpu": "NVIDIA H200", "driver": "2", "versions": {"python": "3.11.9", "vllm": "0.32"}},
    ]
    made = groups([replace(r, environment=w) for w in worlds for r in one], "speed")
    assert [len(g.records) for g in made] == [len(one)] * 3
    assert [g.repeats for g in made] == [0] * 3
    assert [g.label.split(" · ")[2:] for g in made] == [
        ["gpu NVIDIA H100", "driver 1", "vllm version not recorded"],
        ["gpu NVIDIA H200", "driver 2", "vllm version not recorded"],
        ["gpu NVIDIA H200", "driver 2", "vllm version 0.32"],
    ]
    ((labels, differing),) = apart(made)
    assert labels == [g.label for g in made]
    assert differing["gpu"] == ["NVIDIA H100", "NVIDIA H200", "NVIDIA H200"]


def test_another_commit_of_allocmoe_is_the_same_machine():
    one = [quality(*p) for p in plans("uniform")]
    later = ENVIRONMENT | {"commit": {"hash": "1" * 40}, "versions": {"python": "3.11.9", "allocmoe": "0.2.0"}}
    (group,) = groups([*one, *(replace(r, environment=later) for r in one)], "quality")
    assert group.repeats == len(one)
    assert all(r.environment == later for r in group.records)
    assert not apart([group])


def test_the_latest_is_the_one_made_last_wherever_it_stands():
    times = ["2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"]
    made = [replace(quality("original", 48), created=t) for t in times]
    (group,) = groups(made, "quality")
    assert [r.created for r in group.records] == [times[1]]
    assert [r.created for r in group.originals.values()] == [times[1]]
    same = [replace(made[0], command=command) for command in ("first", "second")]
    assert groups(same, "quality")[0].records[0].command == "second", "of one second the last in the file"


def test_plans_of_two_models_on_one_shape_are_two_groups():
    own = [speed(*p) for p in plans("uniform")]
    other = [replace(r, model="mini-qwen", fingerprint="e" * 16) for r in own]
    made = groups([onto(r) for r in own + other], "speed")
    assert [g.label.split(" · ")[-1] for g in made] == ["plans of mini-olmoe", "plans of mini-qwen"]
    assert [g.owner["fingerprint"] for g in made] == ["f" * 16, "e" * 16]
    assert not apart(made)


def test_of_other_items_the_label_says_how_many() -> None:
    few, more = (
        replace(r, setup={**r.setup, "tasks": {"piqa": n, "boolq": n}, "task_items": str(n)})
        for r, n in zip([quality("original", 48)] * 2, (50, 300), strict=True)
    )
    labels = [g.label.split(" · ")[-1] for g in groups([few, more], "quality")]
    assert labels == ["tasks piqa 50, boolq 50", "tasks piqa 300, boolq 300"]


def test_weights_and_then_what_sets_them_apart_are_in_the_label():
    one = [quality(*p) for p in plans("uniform")]
    trained = [replace(r, fingerprint="9" * 16) for r in one]
    other = [replace(r, setup=r.setup | {"task_batch": 1}) for r in trained]
    labels = [g.label for g in groups([*one, *trained, *other], "quality")]
    start = "mini-olmoe · generated stories · weights"
    assert labels == [f"{start} ffffffff", f"{start} 99999999 · task_batch 64", f"{start} 99999999 · task_batch 1"]
