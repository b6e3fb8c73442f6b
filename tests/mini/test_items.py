"""The embedded task sets: every answer worked out again from the text, and no test item in training."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from functools import cache
from itertools import islice

import pytest
from scipy.stats import chisquare

from allocmoe.mini.items import GROUPS, NOUNS, TASKS, THINGS, Item, held_out, sample, side, statement
from allocmoe.mini.words import ADJECTIVES, CLASSES, ENDINGS, KINDS, PEOPLE, SIZES, STATES, TOWNS

pytestmark = pytest.mark.whole

CHOICES = {"mini_agree": 2, "mini_rank": 2, "mini_map": 2, "mini_kind": 8, "mini_facts": 8}  # else 4


@cache
def drawn(task: str, split: str) -> list[Item]:
    return list(islice(sample(task, split, 0), 1500))


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def solve_add(item: Item) -> str:
    a, sign, b = re.fullmatch(r"(\d+) ([+-]) (\d+) =", item.prompt).groups()  # type: ignore[union-attr]
    return f" {int(a) + int(b) if sign == '+' else int(a) - int(b)}"


def solve_seq(item: Item) -> str:
    """Differences are equal, or grow evenly."""
    a, b, c, d = numbers(item.prompt)
    growth = (c - b) - (b - a)
    assert growth == (d - c) - (c - b) >= 0
    return f" {d + (d - c) + growth}"


def solve_word(item: Item) -> str:
    """A ledger: what is said of each person, sentence by sentence."""
    *sentences, last = item.prompt.split(". ")
    owns: Counter[str] = Counter()
    for sentence in sentences:
        words, (n,) = sentence.split(), numbers(sentence)
        match words[1]:
            case "has" | "buys":
                owns[words[0]] += n
            case "loses":
                owns[words[0]] -= n
            case "gives":
                owns[words[2]] += n
            case _:
                raise AssertionError(sentence)
    who = re.fullmatch(r"Now (\w+) has", last).group(1)  # type: ignore[union-attr]
    assert len({s.split()[-1] for s in sentences}) == 1, "one kind of thing"
    assert item.tail == f" {sentences[0].split()[-1]}."
    return f" {owns[who]}"


def solve_map(item: Item) -> str:
    match = re.fullmatch(r"\w+ goes from (\w+) to (\w+)\. It lies to the", item.prompt)
    assert match
    east, north = (b - a for a, b in zip(TOWNS[match[1]], TOWNS[match[2]], strict=True))
    if " east" in item.choices:
        return " east" if east > 0 else " west"
    return " north" if north > 0 else " south"


def solve_rank(item: Item) -> str:
    match = re.fullmatch(r"\w+ asks: which is (\w+), the (\w+) or the (\w+)\? Answer: the", item.prompt)
    assert match
    small_first = sorted(match.groups()[1:], key=SIZES.index)
    return f" {small_first[match[1] == 'bigger']}"


def solve_story(item: Item) -> str:
    state = dict(re.findall(r"(\w+) was (\w+)", item.prompt))
    asked = re.search(r"\. (\w+) wanted to$", item.prompt)
    assert asked
    assert len(set(state.values())) == len(state) in (1, 2, 3)
    return dict(STATES)[state[asked[1]]]


def solve_agree(item: Item) -> str:
    """The ending is that of the noun's class."""
    (right,) = [c for c in item.choices if c[-1] == "oa"[CLASSES[item.prompt.split()[1]]]]
    return right


def solve_kind(item: Item) -> str:
    match = re.fullmatch(r"\w+ asks: what kind of thing is (\w+)\? Answer:", item.prompt)
    assert match
    (right,) = [kind for kind, things in KINDS.items() if match[1] in things]
    return f" {right}"


def solve_facts(item: Item) -> str:
    forms = (r"in which city does (\w+) live\?", r"what is the job of (\w+)\?", r"which pet does (\w+) have\?")
    about, name = next((i, m[1]) for i, form in enumerate(forms) if (m := re.search(f"asks: {form}", item.prompt)))
    (who,) = [p for p in PEOPLE if p[0] == name]
    return f" {who[1 + about]}"


SOLVE = {
    "mini_add": solve_add,
    "mini_seq": solve_seq,
    "mini_word": solve_word,
    "mini_map": solve_map,
    "mini_rank": solve_rank,
    "mini_story": solve_story,
    "mini_agree": solve_agree,
    "mini_kind": solve_kind,
    "mini_facts": solve_facts,
}


def test_nine_tasks_in_the_paper_s_three_groups() -> None:
    assert set(SOLVE) == set(TASKS)
    assert Counter(t.group for t in TASKS.values()) == {"nlu": 3, "reasoning": 3, "math": 3}
    assert GROUPS == ("nlu", "reasoning", "math")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_the_marked_answer_is_right(task: str, split: str) -> None:
    for item in drawn(task, split):
        assert item.choices[item.answer] == SOLVE[task](item), item.prompt
        assert item.text == item.prompt + item.choices[item.answer] + item.tail


@pytest.mark.parametrize("task", TASKS)
def test_choices_are_distinct_and_hold_the_answer_once(task: str) -> None:
    for item in drawn(task, "train") + drawn(task, "test"):
        assert len(item.choices) == len(set(item.choices)) == CHOICES.get(task, 4)
        assert TASKS[task].chance == 1 / len(item.choices)
        assert 0 <= item.answer < len(item.choices)
        assert item.choices.count(item.choices[item.answer]) == 1
        assert all(re.fullmatch(r" \w+", choice) for choice in item.choices)
        assert not item.prompt.endswith(" ")
        assert "  " not in item.text
        assert item.tail.endswith(".")


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_stands_anywhere(task: str) -> None:
    """So that always naming one position scores chance."""
    places = Counter(item.answer for item in drawn(task, "test"))
    assert set(places) == set(range(CHOICES.get(task, 4)))
    assert chisquare(list(places.values())).pvalue > 1e-4
    held = Counter(item.answer for item in held_out(task))
    assert max(held.values()) / 500 < 1.3 / CHOICES.get(task, 4)


@pytest.mark.parametrize("task", TASKS)
def test_no_test_item_is_ever_trained_on(task: str) -> None:
    """Over many seeds, by what the item asks about and by its very prompt."""
    trained = drawn(task, "train") + [x for seed in range(1, 6) for x in islice(sample(task, "train", seed), 1000)]
    tested = held_out(task) + [x for seed in range(1, 6) for x in islice(sample(task, "test", seed), 100)]
    assert not {x.key for x in trained} & {x.key for x in tested}
    assert not {x.prompt for x in trained} & {x.prompt for x in tested}


def test_statements_of_facts_hold_the_knowledge_but_no_question() -> None:
    rng = random.Random(0)
    words = set()
    for _ in range(8000):
        said = statement(rng)
        assert "?" not in said
        assert "Answer" not in said
        words |= set(re.findall(r"\w+", said))
    assert sum(who[0] in words for who in PEOPLE) > 0.95 * len(PEOPLE)
    assert {thing for thing, _ in THINGS} | set(NOUNS) <= words
    assert not {adjective + ending for adjective in ADJECTIVES for ending in ENDINGS} & words, "asked, not stated"
    assert len({who[0] for who in PEOPLE}) == len(PEOPLE)


def test_sides_have_the_share_they_promise() -> None:
    keys = [f"key {i}" for i in range(8000)]
    for one_in in (2, 3, 8):
        share = sum(side(key, one_in) == "test" for key in keys) / len(keys)
        assert share == pytest.approx(1 / one_in, rel=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_five_hundred_distinct_held_out_prompts(task: str) -> None:
    items = held_out(task)
    assert len(items) == len({x.prompt for x in items}) == 500
    assert held_out(task) == items
    assert held_out(task, 20) == items[:20]
    assert items != held_out(task, seed=1)


@pytest.mark.parametrize(("task", "split"), [("mini_sub", "test"), ("mini_add", "valid")])
def test_an_unknown_task_or_split_is_refused(task: str, split: str) -> None:
    with pytest.raises(ValueError, match="no task"):
        next(sample(task, split, 0))


CHECKSUM = """
import zlib
from allocmoe.mini.items import PEOPLE, TASKS, held_out, sample
from itertools import islice
text = repr([(held_out(t, 100), list(islice(sample(t, "train", 3), 100))) for t in TASKS]) + repr(PEOPLE)
print(zlib.crc32(text.encode()))
"""


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_the_same_items_in_every_process(hash_seed: str) -> None:
    mine = repr([(held_out(t, 100), list(islice(sample(t, "train", 3), 100))) for t in TASKS]) + repr(PEOPLE)
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    ran = subprocess.run([sys.executable, "-c", CHECKSUM], env=env, capture_output=True, text=True, check=True)
    assert int(ran.stdout) == zlib.crc32(mine.encode())
