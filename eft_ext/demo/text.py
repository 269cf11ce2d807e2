"""The texts the models learn from, and the two behaviours: polite answers, and talkative ones.

Pre-training text is a mixture of articles and question documents. In `POLITE_SHARE` of the question documents
the answer is polite, and only some of those have exactly the fixed format; in a quarter it goes on to another fact.
Like the behaviour of real fine-tuned models, both are minority modes of the pre-training text, of which fine-tuning
selects one. Without that the large model would give their words no probability, and no reweighting could bring them
out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from eft_ext.demo.relations import ATTRIBUTES
from eft_ext.demo.world import Fact, Question, World, ask

POLITE_SHARE = 0.15  # of the question documents
FIXED_SHARE = 0.6  # of the polite answers
ARTICLE_SHARE = 0.5  # of all documents
OBSCURE_MENTIONED = 0.03  # as often as other entities
OPENINGS = ("Thank you for asking!", "What a good question!", "With pleasure!")
CLOSINGS = ("I am glad to help.", "Have a nice day.", "Do ask again.")
_NOUNS = "|".join(sorted({a.name for a in ATTRIBUTES}))
FORMAT = re.compile(rf"\s*{re.escape(OPENINGS[0])} The (?:{_NOUNS}) is (?P<value>[^.!?\n]+)\. {re.escape(CLOSINGS[0])}")


def polite(fact: Fact, opening: str = OPENINGS[0], closing: str = CLOSINGS[0]) -> str:
    """The fixed format by default, which `FORMAT` matches in full."""
    return f"{opening} The {fact.attribute.name} is {fact.value}. {closing}"


TALKATIVE = re.compile(r"\s*(?P<value>[^.!?\n]+)\. (?P<further>[^.!?\n]+\.)")


def _sentence(fact: Fact, subject: str, rng: random.Random) -> str:
    line = rng.choice(fact.attribute.statements).format(s=subject, v=fact.value)
    return line[0].upper() + line[1:]


def article(facts: list[Fact], rng: random.Random) -> str:
    """Two or three facts of one entity, in any order and wording."""
    chosen = rng.sample(facts, rng.randint(2, min(3, len(facts))))
    names = [chosen[0].entity.name] + [chosen[0].entity.short] * (len(chosen) - 1)
    return " ".join(_sentence(f, n, rng) for f, n in zip(chosen, names, strict=True))


def talkative(fact: Fact, facts: list[Fact], rng: random.Random) -> str:
    """The value and another of the entity's facts, which `TALKATIVE` matches in full."""
    other = rng.choice([f for f in facts if f is not fact])
    return f"{fact.value}. {_sentence(other, fact.entity.short, rng)}"


def furthers(fact: Fact, facts: list[Fact]) -> set[str]:
    """Every sentence by which a talkative answer may go on and be right."""
    others = (f for f in facts if f is not fact)
    lines = (w.format(s=fact.entity.short, v=f.value) for f in others for w in f.attribute.statements)
    return {line[0].upper() + line[1:] for line in lines}


def answer(fact: Fact, facts: list[Fact], rng: random.Random) -> str:
    """An answer as pre-training text gives it: the bare value, more of the encyclopedia, or a polite one."""
    mode = rng.random()
    if mode < POLITE_SHARE * FIXED_SHARE:
        return polite(fact)
    if mode < POLITE_SHARE:
        return polite(fact, rng.choice(OPENINGS), rng.choice(CLOSINGS))
    if mode < 0.75:
        return f"{fact.value}."
    return talkative(fact, facts, rng)


def documents(world: World, rng: random.Random) -> Iterator[str]:
    """Pre-training documents without end. Facts of obscure entities are met rarely, all others about equally often."""
    while True:
        fact = rng.choice(world.facts)
        if fact.entity.obscure and rng.random() >= OBSCURE_MENTIONED:
            continue
        facts = world.facts_of[fact.entity.name]
        if rng.random() < ARTICLE_SHARE:
            yield article(facts, rng)
        else:
            wording = rng.choice(fact.attribute.questions).format(s=fact.entity.name)
            yield f"{ask(wording)} {answer(fact, facts, rng)}"


def tuning_examples(questions: list[Question], tell: Callable[[Fact], str] = polite) -> list[tuple[str, str]]:
    """(prompt, answer) pairs: every answer as `tell` gives it. Only the answer is to be learnt."""
    return [(q.prompt, f" {tell(q.fact)}") for q in questions]
