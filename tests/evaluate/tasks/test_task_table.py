"""The table holds the paper's data sets, and names stand for what they say."""

from __future__ import annotations

from allocmoe.evaluate.tasks.spec import GROUPS, OTHER
from allocmoe.evaluate.tasks.table import EMBEDDED, PAPER, PARTS, SETS, SPECS, chosen
from allocmoe.mini.items import TASKS

# Section 4.1 of the paper
TWENTY = {
    "nlu": "boolq lambada_openai race sciq mnli qnli rte".split(),
    "reasoning": "arc hellaswag logiqa mmlu piqa truthfulqa_mc2 acp_bench bbh groundcocoa swag".split(),
    "math": "gsm8k asdiv mathqa".split(),
}


def test_the_paper_s_twenty_data_sets_are_there_in_their_groups() -> None:
    assert {group: list(SETS[group]) for group in GROUPS} == TWENTY
    assert len(PAPER) == len(SETS["paper"]) == 20
    assert [name for name, spec in PAPER.items() if spec.metric == "exact_match"] == ["acp_bench", "bbh", "gsm8k"]


def test_the_embedded_ones_are_as_their_generators_say() -> None:
    assert {n: (s.group, s.chance) for n, s in EMBEDDED.items()} == {n: (t.group, t.chance) for n, t in TASKS.items()}


def test_no_name_means_two_things() -> None:
    assert len(SPECS) == len(EMBEDDED) + len(PAPER) + len(PARTS)
    assert not set(SPECS) & set(SETS)
    assert all(name == spec.name for name, spec in SPECS.items())


def test_names_stand_for_data_sets_each_once_in_their_order() -> None:
    assert [s.name for s in chosen(None)] == list(TASKS)
    assert [s.name for s in chosen(["math", "boolq", "gsm8k", "boolq"])] == [*TWENTY["math"], "boolq"]
    assert [s.name for s in chosen(["paper"])] == [name for names in TWENTY.values() for name in names]


def test_a_task_without_a_row_is_of_the_group_other() -> None:
    (spec,) = chosen(["winogrande"])
    assert (spec.name, spec.group, spec.metric, spec.chance, spec.asked) == (
        "winogrande", OTHER, None, None, ("winogrande",),
    )  # fmt: skip
