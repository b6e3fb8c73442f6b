"""The words that the embedded tasks are made of: real ones, and made-up ones with fixed properties.

What is made up (people, towns, nouns of a language that does not exist) is drawn from fixed seeds,
so it is the same on every machine, and nothing that a model read elsewhere can help.
"""

from __future__ import annotations

import random

NAMES = (
    "Tom Anna Ben Sue Max Lucy Sam Mary Jack Lily Tim Rose Dan Amy Bob Jane Joe Kate Fred Ella "
    "Hugo Nina Paul Ruth Carl Dora Eric Gina Ivan Lena Mark Nora"
).split()
PLACES = "park house garden school shop forest kitchen barn market church station library".split()
CITIES = "Paris London Rome Berlin Madrid Vienna Oslo Cairo Delhi Tokyo Lima Boston".split()
JOBS = "baker doctor farmer teacher sailor painter soldier miner tailor singer judge cook".split()
PETS = "cat dog horse goat parrot rabbit snake turtle pig duck sheep mouse".split()
GOODS = "coins books cups balls pens hats".split()
# From small to big: the order is what `rank` asks about, and nothing but this list decides it.
SIZES = (
    "flea ant fly bee wasp moth beetle snail frog sparrow mouse robin rat crow pigeon squirrel duck hen owl rabbit "
    "cat fox goose eagle otter dog goat swan sheep pig wolf deer donkey lion tiger bear cow horse camel whale"
).split()
KINDS = {
    "animal": "cat dog horse goat cow pig sheep wolf lion bear fox rabbit mouse tiger camel donkey monkey".split(),
    "bird": "hen goose owl eagle crow robin swan parrot sparrow pigeon hawk raven turkey dove".split(),
    "insect": "ant bee wasp moth beetle cricket butterfly flea gnat locust".split(),
    "colour": "red blue green black white yellow brown pink purple grey scarlet crimson".split(),
    "tool": "knife spoon pen key rope needle hammer brush axe spade saw rake drill shovel".split(),
    "plant": "tree oak grass fern bush vine daisy ivy moss tulip pine willow clover elm".split(),
    "food": "bread cheese apple cake soup meat egg butter honey jam rice pie bacon sugar".split(),
    "person": "king baker doctor farmer teacher sailor painter soldier judge cook queen prince uncle nurse".split(),
    "garment": "hat coat shirt shoe dress glove boot sock cap cloak apron scarf".split(),
    "vehicle": "ship boat cart train wagon carriage sledge tram bus barge".split(),
    "metal": "iron gold silver copper tin lead steel brass bronze zinc".split(),
    "building": "house church castle barn tower palace cottage temple mill inn".split(),
}
STATES = (
    ("hungry", " eat"), ("tired", " sleep"), ("thirsty", " drink"), ("dirty", " wash"),
    ("lost", " ask"), ("sad", " cry"), ("happy", " sing"), ("late", " run"),
    ("bored", " play"), ("ill", " rest"), ("angry", " shout"), ("curious", " look"),
    ("cold", " dress"), ("poor", " work"), ("proud", " tell"), ("afraid", " hide"),
)  # fmt: skip

SYLLABLES = "ka lo mi ru ta ven dor sil bra nex po zu".split()
FACTS = (CITIES, JOBS, PETS)
# Of each fact: two ways to state it and one to ask for it.
FACT_FORMS = (
    ("{n} lives in", "The home of {n} is the city of", "in which city does {n} live? Answer:"),
    ("{n} works as a", "The job of {n} is that of a", "what is the job of {n}? Answer:"),
    ("{n} has a", "The pet of {n} is a", "which pet does {n} have? Answer:"),
)


def people() -> list[tuple[str, str, str, str]]:
    """The made-up people of `facts`: (name, city, job, pet)."""
    rng = random.Random(20260408)
    names = [(a + b + "n").capitalize() for a in SYLLABLES for b in SYLLABLES]
    return [(n, rng.choice(CITIES), rng.choice(JOBS), rng.choice(PETS)) for n in names]


def nouns() -> dict[str, int]:
    """The nouns of `agree`'s made-up language, each of class 0 or 1, which the word does not show."""
    rng = random.Random(20260409)
    first = "bel cor fis gul hap jun kes mol nar pim rov sut tam wex".split()
    last = "dim fa gor hul jek".split()
    return {a + b: rng.randrange(2) for a in first for b in last}


MARKS = ("da", "ne")  # by class; behind the noun, since a causal model learns what follows from what
SEEN = "I see|We know|They want|You have|She found|He lost".split("|")
OWNERS = "My Your Our Their Her His".split()
COPULAS = "is was looks seems feels became".split()
ADJECTIVES = "grand bell fort nov trist rapid".split()
ENDINGS = ("o", "a")  # by class


def towns() -> dict[str, tuple[int, int]]:
    """The towns of `map`: (distance east, distance north), both permutations, so no two are level."""
    rng = random.Random(20260410)
    names = [a + b for a in "Ash Bar Crow Dun Elm Fen Hol Lang".split() for b in "ton by ham".split()]
    east, north = (rng.sample(range(len(names)), len(names)) for _ in range(2))
    return dict(zip(names, zip(east, north, strict=True), strict=True))


PEOPLE, CLASSES, TOWNS = people(), nouns(), towns()
