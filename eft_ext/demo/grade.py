"""Grades one answer: is the fact right, and is the format kept?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from eft_ext.demo.text import FORMAT
from eft_ext.demo.world import Question, World

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Grade:
    fact: bool
    format: bool


@dataclass(frozen=True)
class Proportion:
    """`k` of `n`, with the 95 % interval of Wilson (1927), which stays inside [0, 1] at the ends."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        p, zz = self.value, _Z95 * _Z95
        centre = (p + zz / (2 * self.n)) / (1 + zz / self.n)
        half = _Z95 * math.sqrt(p * (1 - p) / self.n + zz / (4 * self.n**2)) / (1 + zz / self.n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def most_above(self, other: Proportion) -> float:
        """The largest difference that the intervals leave room for."""
        return self.interval[1] - other.interval[0]


class Grader:
    """The fact is right when the answer names the right value and no other value of the same kind.

    So a list of guesses does not count, and neither does a made-up word. The format is right when the whole
    answer, as decoded up to the end-of-text token, matches `FORMAT`: anything more or less fails.
    """

    def __init__(self, world: World) -> None:
        self._values = {
            kind: re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(pool))) + r")\b")
            for kind, pool in world.pools.items()
        }

    def __call__(self, question: Question, answer: str) -> Grade:
        named = set(self._values[question.fact.attribute.value].findall(answer))
        return Grade(fact=named == {question.answer}, format=FORMAT.fullmatch(answer) is not None)
