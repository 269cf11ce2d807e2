"""The grader on answers written by hand, right ones and wrong ones."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from eft_ext.demo.grade import Grader, Proportion
from eft_ext.demo.text import polite
from eft_ext.demo.world import Question, World

WORLD = World(seed=3, people=60, towns=20)
GRADE = Grader(WORLD)


def _question(attribute: str) -> Question:
    return next(q for q in WORLD.questions("heldout") if q.fact.attribute.name == attribute)


@pytest.mark.parametrize("attribute", ["birthplace", "birth year", "craft", "captain", "stone"])
def test_right_and_polite(attribute: str) -> None:
    question = _question(attribute)
    grade = GRADE(question, " " + polite(question.fact))
    assert grade.fact
    assert grade.format


@pytest.mark.parametrize(
    ("template", "fact", "polite_format"),
    [
        (" {right}.", True, False),
        (" Thank you for asking! The craft is {wrong}. I am glad to help.", False, True),
        (" Thank you for asking! The craft is {right}. I am glad to help. The goose", True, False),
        (" Thank you for asking! The craft is {right}.", True, False),
        (" Thank you for asking! The craft is {right}. Have a nice day.", True, False),
        (" thank you for asking! The craft is {right}. I am glad to help.", True, False),
        (" Thank you for asking! The craft is . I am glad to help.", False, False),
        (" Thank you for asking! The shoe is {right}. I am glad to help.", True, False),
        (" {right} or {wrong}.", False, False),
        (" {right}ish.", False, False),
        ("", False, False),
    ],
)
def test_other_answers(template: str, fact: bool, polite_format: bool) -> None:
    question = _question("craft")
    wrong = next(v for v in WORLD.pools["craft"] if v != question.answer)
    grade = GRADE(question, template.format(right=question.answer, wrong=wrong))
    assert grade.fact is fact
    assert grade.format is polite_format


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (487, 500)])
def test_interval_is_wilsons(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert Proportion(k, n).interval == pytest.approx((expected.low, expected.high), abs=1e-12)
