"""The world comes from its seed alone, and the held-out half stays out of fine-tuning."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from eft_ext.demo.text import FORMAT, documents, polite, tuning_examples
from eft_ext.demo.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3, people=60, towns=20)


def test_same_seed_same_world(world: World) -> None:
    again = World(seed=3, people=60, towns=20)
    assert again.facts == world.facts
    assert again.questions("heldout", 5) == world.questions("heldout", 5)
    assert World(seed=4, people=60, towns=20).facts != world.facts


def test_same_seed_same_text(world: World) -> None:
    def text(seed: int) -> list[str]:
        return list(islice(documents(world, random.Random(seed)), 200))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_split_covers_every_fact_once(world: World) -> None:
    asked = [q.fact for split in ("tuning", "heldout") for q in world.questions(split)]
    assert len(asked) == len(world.facts)
    assert set(asked) == set(world.facts)


def test_fine_tuning_never_names_a_heldout_entity(world: World) -> None:
    heldout = {e.name for e in world.entities if e.heldout}
    assert {e.kind for e in world.entities if e.heldout} == {"person", "ship", "book", "tower"}
    text = "\n".join(p + a for p, a in tuning_examples(world.questions("tuning")))
    assert [name for name in heldout if name in text] == []
    assert {q.fact.entity.name for q in world.questions("heldout")} == heldout


def test_names_are_unique_and_values_of_kinds_do_not_clash(world: World) -> None:
    names = [e.name for e in world.entities]
    assert len(names) == len(set(names))
    for kind in {e.kind for e in world.entities}:
        values = [f.attribute.value for f in world.facts if f.entity.kind == kind]
        per_entity = len(values) // len({f.entity for f in world.facts if f.entity.kind == kind})
        assert len(set(values)) == per_entity


def test_polite_answers_have_the_fixed_format(world: World) -> None:
    for fact in world.facts:
        match = FORMAT.fullmatch(polite(fact))
        assert match is not None
        assert match["value"] == fact.value


def test_prompt_gives_the_question_back(world: World) -> None:
    question = world.questions("heldout")[0]
    assert question.prompt == f"Question: {question.text}\nAnswer:"
    assert question.text.endswith("?")
