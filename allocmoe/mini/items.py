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
COLORS = "red blue green black white yellow brown pink".split()
OBJECTS = "ball book cup key hat coin ring lamp pen doll bell kite rope spoon".split()
PLACES = "park house garden school shop forest kitchen barn market church station library".split()
BOXES = "box bag drawer basket jar chest bucket cabinet".split()
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


def entail(rng: random.Random) -> Item:
    """Two hand-overs, then a yes/no question that needs the right binding. Chance 50 %."""
    a, b, c, d = rng.sample(NAMES, 4)
    x, y = rng.sample(OBJECTS, 2)
    p, q = rng.sample(PLACES, 2)
    u, v = rng.sample(COLORS, 2)
    premise = f"{a} gave the {u} {x} to {b} in the {p}. {c} gave the {v} {y} to {d} in the {q}."
    yes = rng.random() < 0.5
    asked = rng.randrange(3)
    if asked == 0:
        question = f"Does {rng.choice([b, d] if yes else [a, c])} have the"
        who = question.split()[1]
        question += f" {x if who in (a, b) else y}?"
    elif asked == 1:
        thing, color, other = rng.choice([(x, u, v), (y, v, u)])
        question = f"Is the {thing} {color if yes else other}?"
    else:
        who, place, other = rng.choice([(a, p, q), (b, p, q), (c, q, p), (d, q, p)])
        question = f"Was {who} in the {place if yes else other}?"
    prompt = f"{premise} {question} Answer:"
    return Item(prompt, prompt, (" yes", " no"), 0 if yes else 1)


def agree(rng: random.Random) -> Item:
    """Subject-verb agreement across nouns of the other number. Chance 50 %."""
    nouns = rng.sample(NOUNS, 3)
    subject, first, second = (rng.randrange(2) for _ in range(3))
    prompt = f"The {rng.choice(['old', 'small', 'big', 'poor', 'good', 'young'])} {nouns[0][subject]}"
    prompt += f" {rng.choice(['near', 'behind', 'with', 'beside'])} the {nouns[1][first]}"
    if rng.random() < 0.5:
        prompt += f" that the {nouns[2][second]} saw"
    return Item(prompt, prompt, rng.choice(VERBS), subject, tail=rng.choice([" not there.", " nothing.", " it."]))


def story(rng: random.Random) -> Item:
    """What a named person in a known state wants to do, among others' states. Chance 25 %."""
    people, states = rng.sample(NAMES, 3), rng.sample(STATES, 3)
    who = rng.randrange(3)
    lines = [f"{p} was {s[0]}" for p, s in zip(people, states, strict=True)]
    place = rng.choice(PLACES)
    prompt = f"{lines[0]}, {lines[1]} and {lines[2]}. They met in the {place}. {people[who]} wanted to"
    pool = [s[1] for s in states] + [rng.choice([s for s in STATES if s not in states])[1]]
    choices, answer = _pick(rng, states[who][1], pool, 4)
    return Item(prompt, prompt, choices, answer)


def track(rng: random.Random) -> Item:
    """Where a thing is after it, or another, was moved. Chance 25 %."""
    things, boxes = rng.sample(OBJECTS, 3), rng.sample(BOXES, 5)
    where = dict(zip(things, boxes[:3], strict=True))
    prompt = " ".join(f"The {t} is in the {b}." for t, b in where.items())
    for target in boxes[3 : 3 + rng.randint(1, 2)]:
        moved = rng.choice(things)
        where[moved] = target
        prompt += f" {rng.choice(NAMES)} moves the {moved} to the {target}."
    asked = rng.choice(things)
    prompt += f" Where is the {asked}? In the"
    choices, answer = _pick(rng, " " + where[asked], [" " + b for b in boxes], 4)
    return Item(prompt, prompt, choices, answer)


def hop(rng: random.Random) -> Item:
    """Two lookups in a row: a friend's place of work. Chance 25 %."""
    people, friends = rng.sample(NAMES, 8), []
    places = rng.sample(PLACES, 4)
    friends = list(zip(people[:3], people[3:6], strict=True))
    facts = [f"The friend of {a} is {b}." for a, b in friends]
    work = [f"{b} works in the {p}." for (_, b), p in zip(friends, places, strict=False)]
    rng.shuffle(work)
    asked = rng.randrange(3)
    prompt = f"{' '.join(facts)} {' '.join(work)} The friend of {friends[asked][0]} works in the"
    choices, answer = _pick(rng, " " + places[asked], [" " + p for p in places], 4)
    return Item(prompt, prompt, choices, answer)


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


def fact_statement(rng: random.Random) -> str:
    """A plain statement about a made-up person: training text that holds the knowledge."""
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
    "mini_entail": Task("nlu", entail, chance=0.5),
    "mini_agree": Task("nlu", agree, chance=0.5),
    "mini_story": Task("nlu", story),
    "mini_track": Task("reasoning", track),
    "mini_hop": Task("reasoning", hop),
    "mini_facts": Task("reasoning", facts, one_in=2),
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
