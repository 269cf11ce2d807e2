"""The fictional world of the demonstration: entities, their facts, and the split, all from a seed.

The split is made over people: half of them, with every ship, book and tower of theirs, are held out. No
fine-tuning example names a held-out person, ship, book or tower, neither in its question nor in its answer.
Towns and the words that many entities share (crafts, years, wares, ...) are common ground; towns are asked
about in fine-tuning only.

About one entity in ten is obscure: the text mentions it so rarely that, as in the real world, even the large
model does not know everything.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from eft_ext.demo.attribute import Attribute
from eft_ext.demo.pools import POOLS, words
from eft_ext.demo.relations import ATTRIBUTES

Split = Literal["tuning", "heldout"]
OBSCURE_SHARE = 0.12
_ONSETS = words("b br c d dr f g gr h j k kr l m n p r s st t th tr v w z")
_VOWELS = words("a e i o u ae ei ou")
_CODAS = words("l m n r s nd rn ss")


@dataclass(frozen=True)
class Entity:
    """`name` is how a first mention reads, `short` how later ones do."""

    kind: str
    name: str
    short: str
    heldout: bool
    obscure: bool


@dataclass(frozen=True)
class Fact:
    entity: Entity
    attribute: Attribute
    value: str


@dataclass(frozen=True)
class Question:
    """`prompt` ends where the answer begins; `answer` is the bare value, e.g. a town's name."""

    prompt: str
    answer: str
    fact: Fact

    @property
    def text(self) -> str:
        """The question alone, as a person would type it."""
        return self.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")


def ask(text: str) -> str:
    """The prompt for a question in plain words."""
    return f"Question: {text}\nAnswer:"


def _names(rng: random.Random, count: int, syllables: int, taken: set[str]) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        stem = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables - 1))
        name = (stem + rng.choice(_ONSETS) + rng.choice("aeio") + rng.choice(_CODAS)).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


class World:
    """Everything there is. The same arguments give the same world on every machine.

    Args:
        seed: of names, facts and split.
        people: number of people; there are a quarter as many ships, books and towers each, and `towns` towns.
    """

    def __init__(self, seed: int = 0, people: int = 480, towns: int = 72) -> None:
        rng = random.Random(f"world {seed}")
        chance = random.Random(f"obscure {seed}")
        taken: set[str] = set()
        given = _names(rng, max(8, people // 12), 2, taken)
        family = _names(rng, max(8, people // 3), 2, taken)
        places = _names(rng, towns, 2, taken)
        pairs = rng.sample([(g, f) for g in given for f in family], people)
        self.seed = seed
        self.entities: list[Entity] = [
            Entity("person", f"{g} {f}", f, heldout=i % 2 == 1, obscure=chance.random() < OBSCURE_SHARE)
            for i, (g, f) in enumerate(pairs)
        ]
        self._people = list(self.entities)
        self.pools: dict[str, tuple[str, ...]] = dict(POOLS)
        self.pools["region"] = tuple(_names(rng, 16, 2, taken))
        self.pools["river"] = tuple(_names(rng, 24, 2, taken))
        self.pools["town"] = tuple(places)
        self.pools["person"] = tuple(e.name for e in self.entities)
        self.facts: list[Fact] = []
        for person in self._people:
            self._describe(person, rng)
        for kind in ("ship", "book", "tower"):
            for name in _names(rng, people // 4, 3, taken):
                owner = rng.choice(self._people)
                full = {"ship": f"the {name}", "book": name, "tower": f"{name} Tower"}[kind]
                entity = Entity(kind, full, f"the {kind}", owner.heldout, chance.random() < OBSCURE_SHARE)
                self.entities.append(entity)
                self._describe(entity, rng, owner)
        for name in places:
            entity = Entity("town", name, "the town", heldout=False, obscure=chance.random() < OBSCURE_SHARE)
            self.entities.append(entity)
            self._describe(entity, rng)

    def _describe(self, entity: Entity, rng: random.Random, owner: Entity | None = None) -> None:
        for attribute in ATTRIBUTES:
            if attribute.subject == entity.kind:
                of_owner = owner is not None and attribute.value == "person"
                value = owner.name if of_owner and owner else rng.choice(self.pools[attribute.value])
                self.facts.append(Fact(entity, attribute, value))

    @cached_property
    def facts_of(self) -> dict[str, list[Fact]]:
        """The facts of each entity, by its name."""
        table: dict[str, list[Fact]] = {}
        for fact in self.facts:
            table.setdefault(fact.entity.name, []).append(fact)
        return table

    def questions(self, split: Split, seed: int = 0) -> list[Question]:
        """Every question of the split in a shuffled order, each in one of its wordings.

        The first n questions are a fair sample of the split.
        """
        rng = random.Random(f"questions {self.seed} {split} {seed}")
        questions = list(self._questions(split, rng))
        rng.shuffle(questions)
        return questions

    def _questions(self, split: Split, rng: random.Random) -> Iterator[Question]:
        for fact in self.facts:
            if fact.entity.heldout == (split == "heldout"):
                wording = rng.choice(fact.attribute.questions).format(s=fact.entity.name)
                yield Question(ask(wording), fact.value, fact)
