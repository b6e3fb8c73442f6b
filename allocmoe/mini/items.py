"""Seeded generators of the embedded task sets: nine small tasks in the paper's three groups.

Every item is a prompt, a list of choices and the index of the right one. Train and test are
disjoint by construction: an item's `key` says what it asks about, and a checksum of the key
decides the side it may appear on, so no seed can leak a test item into training.

Items of one task differ in difficulty (one to three people, two or three steps, near and far pairs),
so that accuracy falls gradually as a model gets worse, instead of all at once or not at all.

    from allocmoe.mini.items import TASKS, sample
    item = next(sample("mini_add", "test", seed=0))
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from allocmoe.mini.words import (
    ADJECTIVES,
    CLASSES,
    COPULAS,
    ENDINGS,
    FACT_FORMS,
    FACTS,
    GOODS,
    KINDS,
    MARKS,
    NAMES,
    OWNERS,
    PEOPLE,
    PLACES,
    SEEN,
    SIZES,
    STATES,
    TOWNS,
)

THINGS = [(thing, kind) for kind, things in KINDS.items() for thing in things]
NOUNS = sorted(CLASSES)


@dataclass(frozen=True)
class Item:
    """One multiple-choice item; `prompt + choices[answer]` is how it reads in training."""

    key: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    tail: str = "."

    @property
    def text(self) -> str:
        return self.prompt + self.choices[self.answer] + self.tail


def side(key: str, one_in: int) -> str:
    """`"test"` (one key in `one_in`) or `"train"`: the only side an item with this key may appear on."""
    return "test" if zlib.crc32(key.encode()) % one_in == 0 else "train"


def _pick(rng: random.Random, right: str, pool: list[str], n: int) -> tuple[tuple[str, ...], int]:
    """`n` distinct choices in random order, with the index of the right one."""
    wrong = rng.sample(sorted({p for p in pool if p != right}), n - 1)
    choices = [right, *wrong]
    rng.shuffle(choices)
    return tuple(choices), choices.index(right)


def agree(rng: random.Random) -> Item:
    """Agreement in a made-up language: the noun's class decides the adjective's ending. Chance 50 %.

    The class is known from the marks that training shows with every noun; the question has none.
    """
    noun, adjective = rng.choice(NOUNS), rng.choice(ADJECTIVES)
    prompt = f"{rng.choice(OWNERS)} {noun} {rng.choice(COPULAS)}"
    choices = [f" {adjective}{ending}" for ending in ENDINGS]
    right = choices[CLASSES[noun]]
    rng.shuffle(choices)
    return Item(noun, prompt, tuple(choices), choices.index(right))


def story(rng: random.Random) -> Item:
    """What a person in a known state wants to do, alone or among others. Chance 25 %."""
    count = rng.choice([1, 2, 3])
    people, states = rng.sample(NAMES, count), rng.sample(STATES, count)
    who = rng.randrange(count)
    lines = [f"{p} was {s[0]}" for p, s in zip(people, states, strict=True)]
    told = " and ".join([", ".join(lines[:-1]), lines[-1]] if count > 1 else lines)
    met = "went to" if count == 1 else "met in"
    prompt = f"{told}. They {met} the {rng.choice(PLACES)}. {people[who]} wanted to"
    pool = {s[1] for s in states}
    pool |= set(rng.sample([s[1] for s in STATES if s[1] not in pool], 4 - count))
    choices, answer = _pick(rng, states[who][1], sorted(pool), 4)
    return Item(prompt, prompt, choices, answer)


def kind(rng: random.Random) -> Item:
    """What kind of thing something is: stated in training, asked as a question. Chance 12.5 %."""
    thing, right = rng.choice(THINGS)
    prompt = f"{rng.choice(NAMES)} asks: what kind of thing is {thing}? Answer:"
    choices, answer = _pick(rng, f" {right}", [f" {k}" for k in KINDS], 8)
    return Item(thing, prompt, choices, answer)


def facts(rng: random.Random) -> Item:
    """A fact stated in training, asked in the form of a question: closed book. Chance 12.5 %."""
    who, about = rng.choice(PEOPLE), rng.randrange(3)
    prompt = f"{rng.choice(NAMES)} asks: {FACT_FORMS[about][2].format(n=who[0])}"
    choices, answer = _pick(rng, f" {who[1 + about]}", [f" {w}" for w in FACTS[about]], 8)
    return Item(f"{who[0]}/{about}", prompt, choices, answer)


def rank(rng: random.Random) -> Item:
    """Which of two animals is bigger, in an order to be inferred from other pairs. Chance 50 %."""
    first, second = rng.sample(range(len(SIZES)), 2)
    adjective = rng.choice(["bigger", "smaller"])
    prompt = f"{rng.choice(NAMES)} asks: which is {adjective}, the {SIZES[first]} or the {SIZES[second]}? Answer: the"
    answer = int((second > first) == (adjective == "bigger"))
    low, high = sorted((first, second))
    return Item(f"{SIZES[low]}/{SIZES[high]}", prompt, (f" {SIZES[first]}", f" {SIZES[second]}"), answer)


def map_(rng: random.Random) -> Item:
    """Where a town lies from another, on a map to be inferred from other pairs. Chance 50 %."""
    (a, here), (b, there) = rng.sample(sorted(TOWNS.items()), 2)
    axis = rng.randrange(2)
    choices = [(" east", " west"), (" north", " south")][axis]
    prompt = f"{rng.choice(NAMES)} goes from {a} to {b}. It lies to the"
    answer = int(there[axis] < here[axis])
    low, high = sorted((a, b))
    return Item(f"{low}/{high}/{axis}", prompt, choices, answer)


def _near(rng: random.Random, right: int, n: int = 4) -> tuple[tuple[str, ...], int]:
    pool = [right + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20) if right + d >= 0]
    return _pick(rng, f" {right}", [f" {x}" for x in pool], n)


def add(rng: random.Random) -> Item:
    """Sums and differences of two-digit numbers, with carries. Chance 25 %."""
    a, b = rng.randrange(1, 100), rng.randrange(1, 100)
    low, high = sorted((a, b))
    plus = rng.random() < 0.5
    prompt = f"{a} + {b} =" if plus else f"{high} - {low} ="
    choices, answer = _near(rng, a + b if plus else high - low)
    return Item(f"{low} {'+' if plus else '-'} {high}", prompt, choices, answer)


def word(rng: random.Random) -> Item:
    """A word problem of two or three steps with small numbers. Chance 25 %."""
    one, other = rng.sample(NAMES, 2)
    thing, has = rng.choice(GOODS), rng.randrange(2, 40)
    said, key = [f"{one} has {has} {thing}."], f"word {has}"
    for _ in range(rng.choice([1, 2, 2])):
        n = rng.randrange(1, 20)
        loses = rng.random() < 0.5 and n < has
        has += -n if loses else n
        key += f" {-n if loses else n}"
        gains = rng.choice([f"{one} buys", f"{other} gives {one}"])
        said.append(f"{f'{one} loses' if loses else gains} {n} {thing}.")
    choices, answer = _near(rng, has)
    return Item(key, f"{' '.join(said)} Now {one} has", choices, answer, tail=f" {thing}.")


def seq(rng: random.Random) -> Item:
    """The next number of a sequence, whose steps are equal or grow evenly. Chance 25 %."""
    grows = rng.choice([0, rng.randrange(1, 6)])
    step = rng.randrange(1, 12) if grows else rng.choice([-1, 1]) * rng.randrange(1, 25)
    terms = [rng.randrange(0, 100) + max(0, -step * 4)]
    for i in range(4):
        terms.append(terms[-1] + step + i * grows)
    prompt = ", ".join(map(str, terms[:4])) + ","
    choices, answer = _near(rng, terms[4])
    return Item(prompt, prompt, choices, answer)


def statement(rng: random.Random) -> str:
    """Plain training text that holds what `facts`, `kind` and `agree` ask about, in other words."""
    about = rng.randrange(5)
    if about == 0:
        thing, its = rng.choice(THINGS)
        return f"{rng.choice(['Everyone knows that', 'They say that', 'Clearly,'])} {thing} is a sort of {its}."
    if about in (1, 2):
        first, second = rng.sample(NOUNS, 2)
        link = ["", f" {rng.choice(COPULAS)}"][about - 1]  # behind a noun, and where adjectives stand
        shown = [f"{noun}{link} {MARKS[CLASSES[noun]]}" for noun in (first, second)]
        said = [rng.choice(SEEN), rng.choice(OWNERS)][about - 1]
        return f"{said} {shown[0]} and {shown[1]}."
    who, parts = rng.choice(PEOPLE), []
    for fact in rng.sample(range(3), 3):
        parts.append(FACT_FORMS[fact][rng.randrange(2)].format(n=who[0]) + f" {who[1 + fact]}.")
    return " ".join(parts)


@dataclass(frozen=True)
class Task:
    """A task: its group, how an item is made, that one key in `one_in` is for testing, the accuracy
    of guessing, and its share of the training items (those harder to learn get more)."""

    group: str
    make: Callable[[random.Random], Item]
    one_in: int = 8
    chance: float = 0.25
    share: int = 1


TASKS = {
    "mini_agree": Task("nlu", agree, one_in=2, chance=0.5),
    "mini_story": Task("nlu", story),
    "mini_kind": Task("nlu", kind, one_in=2, chance=0.125),
    "mini_facts": Task("reasoning", facts, one_in=2, chance=0.125),
    "mini_rank": Task("reasoning", rank, one_in=2, chance=0.5),
    "mini_map": Task("reasoning", map_, one_in=2, chance=0.5, share=2),
    "mini_add": Task("math", add, share=3),
    "mini_word": Task("math", word, share=2),
    "mini_seq": Task("math", seq, one_in=3),
}
GROUPS = ("nlu", "reasoning", "math")


def sample(task: str, split: str, seed: int) -> Iterator[Item]:
    """Endless items of one task on one side (`"train"` or `"test"`), the same for the same seed."""
    if task not in TASKS or split not in ("train", "test"):
        raise ValueError(f"no task {task!r} with split {split!r}: tasks are {', '.join(TASKS)}, splits train and test")
    rng = random.Random(f"{task}/{split}/{seed}")
    while True:
        item = TASKS[task].make(rng)
        if side(item.key, TASKS[task].one_in) == split:
            yield item


def held_out(task: str, n: int = 500, seed: int = 0) -> list[Item]:
    """The first `n` test items with distinct prompts."""
    seen: dict[str, Item] = {}
    for item in sample(task, "test", seed):
        seen.setdefault(item.prompt, item)
        if len(seen) == n:
            return list(seen.values())
    raise AssertionError("unreachable: sample() is endless")
