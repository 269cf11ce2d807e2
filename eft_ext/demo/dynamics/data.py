"""The data that the small model is tuned on, and the responses that are watched meanwhile.

Chosen is the right value in the fixed format. There are three kinds of rejected responses, from what another hand wrote
to what the model says itself:

foreign    a wrong value in words that no pre-training text has: every token of it is improbable
format     a wrong value in another of the polite formats: improbable as a whole, each token familiar
own        sampled from the model that has been tuned on the chosen ones: on-policy
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from eft_ext.demo.text import CLOSINGS, OPENINGS, polite
from eft_ext.demo.world import Fact, Question, World
from eft_ext.dynamics import (
    Pairs,
    Probe,
    ProbeSet,
    Responses,
    cross_prompt,
    own_responses,
    permuted_words,
    random_responses,
)

KINDS = ("foreign", "format", "own")
T = TypeVar("T")


@dataclass(frozen=True)
class Preference:
    question: Question
    chosen: str
    rejected: str

    @property
    def prompt(self) -> str:
        return self.question.prompt


def preferences(world: World, kind: str, seed: int) -> list[Preference]:
    """One for each tuning question, shuffled; for "own" the rejected ones are still those of "format"."""
    rows = []
    for question in world.questions("tuning", seed):
        wrong = _wrong(world, question, random.Random(f"wrong {seed} {question.prompt}"))
        rows.append(Preference(question, f" {polite(question.fact)}", _rejected(wrong, kind)))
    return rows


def with_own(rows: Sequence[Preference], model: Any, tokenizer: Any, seed: int) -> list[Preference]:
    """The same, the rejected ones sampled from `model`; a sample that happens to be the chosen one is kept out."""
    asked = ProbeSet(tuple(Probe(p.prompt, {"chosen": p.chosen}) for p in rows))
    said = own_responses(model, tokenizer, asked, max_new_tokens=40, seed=1000 + seed, batch_size=256)
    return [replace(p, rejected=text) for p, text in zip(rows, said, strict=True) if text != p.chosen]


def _wrong(world: World, question: Question, rng: random.Random) -> Fact:
    fact = question.fact
    value = rng.choice([v for v in world.pools[fact.attribute.value] if v != fact.value])
    return Fact(fact.entity, fact.attribute, value)


def _rejected(wrong: Fact, kind: str) -> str:
    if kind == "foreign":
        return f" Why do you ask me? I read of no such {wrong.attribute.name}; it may have been {wrong.value} or not."
    return f" {polite(wrong, OPENINGS[1], CLOSINGS[1])}"


def probes(world: World, rows: Sequence[Preference], count: int, kind: str, seed: int) -> ProbeSet:
    """The first `count` preferences, each with

    chosen_paraphrase (the right value in a third format), chosen_plain (the value alone, the commonest answer of the
    pre-training text), rejected_paraphrase (another wrong value in the format of rejected; not for "own"), irr_train,
    irr_test (chosen responses of other questions, of the tuning and of the held-out set), cross_prompt (that of
    another probe), and random_permute (the words of chosen, shuffled).
    """
    rng = random.Random(f"probes {seed}")
    found = []
    for p in rows[:count]:
        responses = {
            "chosen": p.chosen,
            "chosen_paraphrase": f" {polite(p.question.fact, OPENINGS[2], CLOSINGS[2])}",
            "chosen_plain": f" {p.question.answer}.",
            "rejected": p.rejected,
        }
        if kind != "own":
            responses["rejected_paraphrase"] = _rejected(_wrong(world, p.question, rng), kind)
        found.append(Probe(p.prompt, responses))
    probes = ProbeSet(tuple(found))
    heldout = [f" {polite(q.fact)}" for q in world.questions("heldout", seed)]
    probes = probes.with_type("irr_train", random_responses(probes, [p.chosen for p in rows[count:]], seed))
    probes = probes.with_type("irr_test", random_responses(probes, heldout, seed))
    probes = probes.with_type("cross_prompt", cross_prompt(probes, seed=seed))
    return probes.with_type("random_permute", permuted_words(probes, seed=seed))


def batches(items: Sequence[T], size: int, seed: int) -> Iterator[list[T]]:
    """Epoch after epoch, each in another order."""
    rng = random.Random(f"batches {seed}")
    while True:
        order = rng.sample(list(items), len(items))
        for i in range(0, len(order) - size + 1, size):
            yield order[i : i + size]


def as_pairs(tokenizer: Any, rows: Sequence[Preference]) -> Pairs:
    chosen = Responses.from_text(tokenizer, [(p.prompt, p.chosen) for p in rows])
    return Pairs(chosen, Responses.from_text(tokenizer, [(p.prompt, p.rejected) for p in rows]))
