"""The data sets that have a row: the nine embedded ones and the paper's twenty, checked against lm-eval 0.4.13.

The choices, where the paper (Section 4.1) leaves them open:
- The metric is `acc`, never `acc_norm`: the paper says "accuracy", and exact match for GSM8K, ACP and BBH.
- Shots and prompts are the tasks' own: 5 for GSM8K, 3 for BBH, 2 for ACP (with chains of thought), 0 elsewhere.
- GSM8K is read through its first filter, `strict-match`, as leaderboards do.
- TruthfulQA is MC2: an item's score is the probability of its true answers, 0..1. Guessing gives the mean share of
  true answers among the choices of its 817 questions.
- A data set of several tasks (ARC, MMLU, BBH, ACP) is one entry: the mean over its items, so that a task counts
  by its size, as in lm-eval's own means of MMLU and BBH. ARC thereby counts once in its group.
- Guessing is known where the answers are choices of a known number, and is 0 where they are free text; BBH mixes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allocmoe.evaluate.tasks.spec import GROUPS, TaskSpec
from allocmoe.mini import items

KNOWN_METRICS = ("acc", "exact_match")  # of tasks without a row: 0..1 per item, more is better
_ANY = ("none",)


def _rows(*specs: TaskSpec) -> dict[str, TaskSpec]:
    return {spec.name: spec for spec in specs}


EMBEDDED = _rows(*(TaskSpec(n, t.group, "acc", _ANY, 0, chance=t.chance, binary=True) for n, t in items.TASKS.items()))

PAPER = _rows(
    TaskSpec("boolq", "nlu", "acc", _ANY, chance=1 / 2, binary=True),
    TaskSpec("lambada_openai", "nlu", "acc", _ANY, chance=0.0, binary=True),
    TaskSpec("race", "nlu", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("sciq", "nlu", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("mnli", "nlu", "acc", _ANY, chance=1 / 3, binary=True),
    TaskSpec("qnli", "nlu", "acc", _ANY, chance=1 / 2, binary=True),
    TaskSpec("rte", "nlu", "acc", _ANY, chance=1 / 2, binary=True),
    TaskSpec(
        "arc", "reasoning", "acc", _ANY, chance=1 / 4, binary=True,
        tasks=("arc_easy", "arc_challenge"), members=2,
    ),
    TaskSpec("hellaswag", "reasoning", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("logiqa", "reasoning", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("mmlu", "reasoning", "acc", _ANY, chance=1 / 4, binary=True, members=57),
    TaskSpec("piqa", "reasoning", "acc", _ANY, chance=1 / 2, binary=True),
    TaskSpec("truthfulqa_mc2", "reasoning", "acc", _ANY, 0, chance=0.448, binary=False),
    TaskSpec(
        "acp_bench", "reasoning", "exact_match", ("extract-yes-no", "mcq-extract"), 2, cap=1024,
        chance=3 / 8, binary=True, members=14,
    ),
    TaskSpec("bbh", "reasoning", "exact_match", ("get-answer",), 3, cap=1024, binary=True, members=27),
    TaskSpec("groundcocoa", "reasoning", "acc", _ANY, chance=1 / 5, binary=True),
    TaskSpec("swag", "reasoning", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("gsm8k", "math", "exact_match", ("strict-match",), 5, cap=256, chance=0.0, binary=True),
    TaskSpec("asdiv", "math", "acc", _ANY, chance=0.0, binary=True),
    TaskSpec("mathqa", "math", "acc", _ANY, chance=1 / 5, binary=True),
)  # fmt: skip

# parts and variants of the paper's data sets, for who asks for one
PARTS = _rows(
    TaskSpec("arc_easy", "reasoning", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("arc_challenge", "reasoning", "acc", _ANY, chance=1 / 4, binary=True),
    TaskSpec("bbh_zeroshot", "reasoning", "exact_match", ("flexible-extract",), 0, cap=256, binary=True, members=27),
)

SPECS = {**EMBEDDED, **PAPER, **PARTS}

SETS: dict[str, tuple[str, ...]] = {
    "embedded": tuple(EMBEDDED),
    "paper": tuple(PAPER),
    **{group: tuple(name for name, spec in PAPER.items() if spec.group == group) for group in GROUPS},
}
"""Names that stand for several data sets; the groups are the paper's."""


def chosen(names: Sequence[str] | None) -> list[TaskSpec]:
    """The data sets that the names stand for, each once, in their order; None: the embedded ones.

    A name is one of SETS, of SPECS, or of any task, group or tag of lm-eval: that one is of the group "other".
    """
    flat: Iterable[str] = (one for name in names or ("embedded",) for one in SETS.get(name, (name,)))
    return [SPECS.get(name) or TaskSpec(name, members=None) for name in dict.fromkeys(flat)]
