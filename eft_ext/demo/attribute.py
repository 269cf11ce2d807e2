"""One thing that can be said of an entity, with the wordings that state or ask for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One attribute of one kind of entity, e.g. the craft of a person."""

    subject: str
    name: str  # the noun in "The craft is ..."
    value: str  # the kind of its values: a pool of words, or a kind of entity
    statements: tuple[str, ...]
    questions: tuple[str, ...]
