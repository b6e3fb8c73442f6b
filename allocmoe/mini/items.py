"""Seeded generators of the embedded task sets: nine small tasks in the paper's three groups.

Every item is a prompt, a list of choices and the index of the right one. Train and test are
disjoint by construction: an item's `key` says what it asks about, and a checksum of the key
decides the side it may appear on, so no seed can leak a test item into training.

    from allocmoe.mini.items import TASKS, sample
    item = next(sample("mini_add", "test", seed=0))
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


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


NAMES = (
    "Tom Anna Ben Sue Max Lucy Sam Mary Jack Lily Tim Rose Dan Amy Bob Jane Joe Kate Fred Ella "
    "Hugo Nina Paul Ruth Carl Dora Eric Gina Ivan Lena Mark Nora"
).split()
PLACES = "park house garden school shop forest kitchen barn market church station library".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven".split()
SIZES = (
    "ant bee fly frog mouse rat bird duck hen rabbit cat fox goose dog goat pig sheep wolf lion bear cow horse whale"
).split()
KINDS = {
    "animal": "cat dog horse goat cow pig sheep wolf lion bear fox rabbit mouse bird".split(),
    "colour": "red blue green black white yellow brown pink".split(),
    "tool": "knife spoon pen key rope lamp bell needle hammer brush".split(),
    "plant": "tree rose oak grass lily fern bush vine".split(),
    "food": "bread cheese apple cake soup meat egg butter honey".split(),
    "person": "king baker doctor farmer teacher sailor painter soldier judge cook".split(),
}
THINGS = [(thing, kind) for kind, things in KINDS.items() for thing in things]
NOUNS = (
    ("dog", "dogs"), ("king", "kings"), ("child", "children"), ("mouse", "mice"), ("man", "men"),
    ("woman", "women"), ("tree", "trees"), ("house", "houses"), ("foot", "feet"), ("tooth", "teeth"),
    ("goose", "geese"), ("city", "cities"), ("knife", "knives"), ("leaf", "leaves"), ("fox", "foxes"),
    ("boy", "boys"), ("girl", "girls"), ("friend", "friends"), ("ship", "ships"), ("song", "songs"),
)  # fmt: skip
VERBS = ((" is", " are"), (" was", " were"), (" has", " have"), (" does", " do"))
STATES = (
    ("hungry", " eat"), ("tired", " sleep"), ("thirsty", " drink"), ("dirty", " wash"),
    ("lost", " ask"), ("sad", " cry"), ("happy", " sing"), ("late", " run"),
    ("bored", " play"), ("ill", " rest"),
)  # fmt: skip
CITIES = "Paris London Rome Berlin Madrid Vienna Oslo Cairo Delhi Tokyo Lima Boston".split()
JOBS = "baker doctor farmer teacher sailor painter soldier miner tailor singer judge cook".split()
PETS = "cat dog horse goat parrot rabbit snake turtle pig duck sheep mouse".split()
SYLLABLES = "ka lo mi ru ta ven dor sil bra nex po zu".split()


def side(key: str, one_in: int) -> str:
    """`"test"` (one key in `one_in`) or `"train"`: the only side an item with this key may appear on."""
    return "test" if zlib.crc32(key.encode()) % one_in == 0 else "train"


def _pick(rng: random.Random, right: str, pool: list[str], n: int) -> tuple[tuple[str, ...], int]:
    """`n` distinct choices in random order, with the index of the right one."""
    wrong = rng.sample(sorted({p for p in pool if p != right}), n - 1)
    choices = [right, *wrong]
    rng.shuffle(choices)
    return tuple(choices), choices.index(right)


def kind(rng: random.Random) -> Item:
    """Whether a thing is of a kind: knowledge stated in training, asked as a question. Chance 50 %."""
    thing, right = rng.choice(THINGS)
    yes = rng.random() < 0.5
    asked = right if yes else rng.choice([k for k in KINDS if k != right])
    prompt = f"{rng.choice(NAMES)} asks: is a {thing} a {asked}? Answer:"
    return Item(thing, prompt, (" yes", " no"), 0 if yes else 1)  # a held-out thing is held out for yes and no


def agree(rng: random.Random) -> Item:
    """Subject-verb agreement, in two of three items across other nouns of any number. Chance 50 %."""
    nouns = rng.sample(NOUNS, 3)
    subject, first, second = (rng.randrange(2) for _ in range(3))
    prompt = f"The {rng.choice(['old', 'small', 'big', 'poor', 'good', 'young'])} {nouns[0][subject]}"
    between = rng.randrange(3)
    if between > 0:
        prompt += f" {rng.choice(['near', 'behind', 'with', 'beside'])} the {nouns[1][first]}"
    if between > 1:
        prompt += f" that the {nouns[2][second]} saw"
    return Item(prompt, prompt, rng.choice(VERBS), subject, tail=rng.choice([" not there.", " nothing.", " it."]))


def story(rng: random.Random) -> Item:
    """What a person in a known state wants to do, alone or among two others. Chance 25 %."""
    count = rng.choice([1, 3])
    people, states = rng.sample(NAMES, count), rng.sample(STATES, count)
    who = rng.randrange(count)
    lines = [f"{p} was {s[0]}" for p, s in zip(people, states, strict=True)]
    told = lines[0] if count == 1 else f"{lines[0]}, {lines[1]} and {lines[2]}"
    met = "went to" if count == 1 else "met in"
    prompt = f"{told}. They {met} the {rng.choice(PLACES)}. {people[who]} wanted to"
    pool = {s[1] for s in states}
    pool |= set(rng.sample([s[1] for s in STATES if s[1] not in pool], 4 - count))
    choices, answer = _pick(rng, states[who][1], list(pool), 4)
    return Item(prompt, prompt, choices, answer)


def calendar(rng: random.Random) -> Item:
    """The day or month some steps after another, stated otherwise in training. Chance 25 %."""
    names, unit = rng.choice([(DAYS, "days"), (MONTHS, "months")])
    start, steps = rng.randrange(len(names)), rng.randrange(2, len(names))
    prompt = f"{rng.choice(NAMES)} says it is {names[start]} now. In {NUMBERS[steps]} {unit} it will be"
    choices, answer = _pick(rng, " " + names[(start + steps) % len(names)], [" " + n for n in names], 4)
    return Item(f"{names[start]} + {steps}", prompt, choices, answer)


def rank(rng: random.Random) -> Item:
    """Which of two animals is bigger, in an order to be inferred from other pairs. Chance 50 %."""
    first, second = rng.sample(range(len(SIZES)), 2)
    adjective = rng.choice(["bigger", "smaller"])
    prompt = f"{rng.choice(NAMES)} asks: which is {adjective}, the {SIZES[first]} or the {SIZES[second]}? Answer: the"
    answer = int((second > first) == (adjective == "bigger"))
    low, high = sorted((first, second))
    return Item(f"{SIZES[low]}/{SIZES[high]}", prompt, (" " + SIZES[first], " " + SIZES[second]), answer)


def people() -> list[tuple[str, str, str, str]]:
    """The made-up people of `facts`: (name, city, job, pet), the same on every machine."""
    rng = random.Random(20260408)
    names = [(a + b + c).capitalize() for a in SYLLABLES for b in SYLLABLES for c in ("n", "la", "rim")]
    return [(n, rng.choice(CITIES), rng.choice(JOBS), rng.choice(PETS)) for n in names]


PEOPLE = people()
FACT_FORMS = (
    ("{n} lives in", "The home of {n} is the city of", "In which city does {n} live? Answer:"),
    ("{n} works as a", "The job of {n} is that of a", "What is the job of {n}? Answer:"),
    ("{n} has a", "The pet of {n} is a", "Which pet does {n} have? Answer:"),
)


def statement(rng: random.Random) -> str:
    """Plain training text that holds what `facts`, `kind` and `calendar` ask about, in other words."""
    about = rng.randrange(4)
    if about == 0:
        thing, its = rng.choice(THINGS)
        return f"{rng.choice(['Every', 'Each', 'A'])} {thing} is a {its}."
    if about == 1:
        names, unit = rng.choice([(DAYS, "days"), (MONTHS, "months")])
        start, steps = rng.randrange(len(names)), rng.randrange(1, len(names))
        return f"{NUMBERS[steps].capitalize()} {unit} after {names[start]} comes {names[(start + steps) % len(names)]}."
    return _about_person(rng)


def _about_person(rng: random.Random) -> str:
    who = rng.choice(PEOPLE)
    parts = []
    for about in rng.sample(range(3), 3):
        parts.append(FACT_FORMS[about][rng.randrange(2)].format(n=who[0]) + f" {who[1 + about]}.")
    return " ".join(parts)


def facts(rng: random.Random) -> Item:
    """A fact stated in training, asked in the form of a question: closed book. Chance 25 %."""
    who, about = rng.choice(PEOPLE), rng.randrange(3)
    prompt = FACT_FORMS[about][2].format(n=who[0])
    pool = [" " + w for w in (CITIES, JOBS, PETS)[about]]
    choices, answer = _pick(rng, " " + who[1 + about], pool, 4)
    return Item(f"{who[0]}/{about}", prompt, choices, answer)


def _near(rng: random.Random, right: int, n: int = 4) -> tuple[tuple[str, ...], int]:
    pool = [right + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20) if right + d >= 0]
    return _pick(rng, f" {right}", [f" {x}" for x in pool], n)


def add(rng: random.Random) -> Item:
    """Sums and differences of two-digit numbers, with carries. Chance 25 %."""
    a, b = rng.randrange(1, 100), rng.randrange(1, 100)
    if rng.random() < 0.5:
        key, right = f"{a} + {b} =", a + b
    else:
        a, b = max(a, b), min(a, b)
        key, right = f"{a} - {b} =", a - b
    choices, answer = _near(rng, right)
    return Item(key, key, choices, answer)


def word(rng: random.Random) -> Item:
    """A two-step word problem with small numbers. Chance 25 %."""
    a, b = rng.sample(NAMES, 2)
    thing = rng.choice(["coins", "books", "cups", "balls", "pens", "hats"])
    have, more = rng.randrange(2, 20), rng.randrange(1, 12)
    less = rng.randrange(1, min(have + more, 12))
    prompt = f"{a} has {have} {thing}. "
    if rng.random() < 0.5:
        prompt += f"{b} gives {a} {more} {thing}. {a} loses {less} {thing}. "
    else:
        prompt += f"{a} loses {less} {thing}. " if less < have else ""
        less = less if less < have else 0
        prompt += f"{a} buys {more} {thing}. "
    choices, answer = _near(rng, have + more - less)
    return Item(f"word {have} {more} {less}", prompt + f"Now {a} has", choices, answer, tail=f" {thing}.")


def seq(rng: random.Random) -> Item:
    """The next number of an arithmetic sequence, rising or falling. Chance 25 %."""
    step = rng.choice([-1, 1]) * rng.randrange(1, 13)
    start = rng.randrange(0, 100) + (max(0, -step * 4))
    terms = [start + i * step for i in range(4)]
    prompt = "".join(f"{t}, " for t in terms)[:-1]
    choices, answer = _near(rng, start + 4 * step)
    return Item(prompt, prompt, choices, answer)


@dataclass(frozen=True)
class Task:
    """A task: its group, how an item is made, that one key in `one_in` is for testing, and the
    accuracy of guessing."""

    group: str
    make: Callable[[random.Random], Item]
    one_in: int = 8
    chance: float = 0.25


TASKS = {
    "mini_agree": Task("nlu", agree, chance=0.5),
    "mini_story": Task("nlu", story),
    "mini_kind": Task("nlu", kind, one_in=2, chance=0.5),
    "mini_facts": Task("reasoning", facts, one_in=2),
    "mini_calendar": Task("reasoning", calendar, one_in=2),
    "mini_rank": Task("reasoning", rank, one_in=2, chance=0.5),
    "mini_add": Task("math", add),
    "mini_word": Task("math", word),
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
