"""What the small model is tuned on, and the responses that are watched meanwhile.

Chosen is the right value in the fixed format. Rejected is off-policy: a wrong value in another format, which a model tuned
to the fixed one would hardly ever say.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eft_ext.demo.text import CLOSINGS, OPENINGS, polite
from eft_ext.demo.world import Fact, Question, World
from eft_ext.dynamics import Pairs, Probe, ProbeSet, Responses, cross_prompt, permuted_words, random_responses


@dataclass(frozen=True)
class Preference:
    prompt: str
    chosen: str
    rejected: str


def preferences(world: World, seed: int = 0) -> list[Preference]:
    """One for each tuning question, shuffled."""
    return [_preference(world, q, random.Random(f"wrong {seed} {q.prompt}")) for q in world.questions("tuning", seed)]


def _preference(world: World, question: Question, rng: random.Random) -> Preference:
    wrong = _wrong(world, question, rng)
    return Preference(question.prompt, f" {polite(question.fact)}", f" {polite(wrong, OPENINGS[1], CLOSINGS[1])}")


def _wrong(world: World, question: Question, rng: random.Random) -> Fact:
    fact = question.fact
    pool = world.pools[fact.attribute.value]
    value = rng.choice([v for v in pool if v != fact.value])
    return Fact(fact.entity, fact.attribute, value)


def probes(world: World, count: int, seed: int = 0) -> ProbeSet:
    """The first `count` preferences, each with

    chosen_paraphrase (the right value in a third format), chosen_plain (the value alone, the commonest answer of the
    pre-training text), rejected_paraphrase (another wrong value in the format of rejected), irr_train, irr_test (the
    chosen responses of other questions, of the tuning and of the held-out set), cross_prompt (of another probe), and
    random_permute (the words of chosen, shuffled).
    """
    rng = random.Random(f"probes {seed}")
    rows = []
    questions = world.questions("tuning", seed)[:count]
    for question, pair in zip(questions, preferences(world, seed), strict=False):
        other = _wrong(world, question, rng)
        responses = {
            "chosen": pair.chosen,
            "chosen_paraphrase": f" {polite(question.fact, OPENINGS[2], CLOSINGS[2])}",
            "chosen_plain": f" {question.answer}.",
            "rejected": pair.rejected,
            "rejected_paraphrase": f" {polite(other, OPENINGS[1], CLOSINGS[1])}",
        }
        rows.append(Probe(pair.prompt, responses))
    found = ProbeSet(tuple(rows))
    beyond = [f" {polite(q.fact)}" for q in world.questions("tuning", seed)[count:]]
    heldout = [f" {polite(q.fact)}" for q in world.questions("heldout", seed)]
    found = found.with_type("irr_train", random_responses(found, beyond, seed))
    found = found.with_type("irr_test", random_responses(found, heldout, seed))
    found = found.with_type("cross_prompt", cross_prompt(found, seed=seed))
    return found.with_type("random_permute", permuted_words(found, seed=seed))


def batches(items: list[Any], size: int, seed: int) -> Iterator[list[Any]]:
    """Epoch after epoch, each in another order."""
    rng = random.Random(f"batches {seed}")
    while True:
        order = rng.sample(items, len(items))
        for i in range(0, len(order) - size + 1, size):
            yield order[i : i + size]


def as_pairs(tokenizer: Any, rows: list[Preference]) -> Pairs:
    chosen, rejected = ([(p.prompt, getattr(p, name)) for p in rows] for name in ("chosen", "rejected"))
    return Pairs(Responses.from_text(tokenizer, chosen), Responses.from_text(tokenizer, rejected))
