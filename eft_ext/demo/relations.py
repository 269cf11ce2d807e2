"""What can be said of an entity: the attributes of each kind, and the wordings that state or ask for them.

In a statement `{s}` is the subject and `{v}` the value; in a question `{s}` is the subject. Every kind has at
most one attribute per kind of value, so a value found in an answer can only answer the question asked.
"""

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


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "person",
        "birthplace",
        "town",
        (
            "{s} was born in {v}.",
            "{s} was a native of {v}.",
            "{s} came from {v}.",
            "{s} grew up in {v}.",
            "The birthplace of {s} was {v}.",
            "The early years of {s} were spent in {v}.",
        ),
        (
            "Where was {s} born?",
            "What was the birthplace of {s}?",
            "In which town was {s} born?",
        ),
    ),
    Attribute(
        "person",
        "birth year",
        "year",
        (
            "{s} was born in the year {v}.",
            "{s} came into the world in {v}.",
            "The birth of {s} fell in {v}.",
            "Records date the birth of {s} to {v}.",
            "The year of {s}'s birth was {v}.",
        ),
        (
            "When was {s} born?",
            "In which year was {s} born?",
            "What was the birth year of {s}?",
        ),
    ),
    Attribute(
        "person",
        "craft",
        "craft",
        (
            "{s} worked as a {v}.",
            "{s} was a {v} by trade.",
            "{s} earned a living as a {v}.",
            "{s} became known as a {v}.",
            "The craft of {s} was that of a {v}.",
        ),
        (
            "What was the craft of {s}?",
            "What did {s} work as?",
            "Which trade did {s} follow?",
        ),
    ),
    Attribute(
        "person",
        "instrument",
        "instrument",
        (
            "{s} played the {v}.",
            "{s} was fond of the {v}.",
            "{s} gave concerts on the {v}.",
            "The instrument of {s} was the {v}.",
            "In the evenings {s} practised the {v}.",
        ),
        (
            "Which instrument did {s} play?",
            "What was the instrument of {s}?",
            "On what did {s} give concerts?",
        ),
    ),
    Attribute(
        "person",
        "pet",
        "pet",
        (
            "{s} kept a {v}.",
            "{s} travelled with a {v}.",
            "{s} was never seen without a {v}.",
            "The pet of {s} was a {v}.",
            "At home {s} looked after a {v}.",
        ),
        (
            "Which pet did {s} keep?",
            "What was the pet of {s}?",
            "With which animal did {s} travel?",
        ),
    ),
    Attribute(
        "ship",
        "captain",
        "person",
        (
            "{s} sailed under {v}.",
            "{s} was commanded by {v}.",
            "The captain of {s} was {v}.",
            "Command of {s} was given to {v}.",
        ),
        (
            "Who was the captain of {s}?",
            "Who commanded {s}?",
            "Under whom did {s} sail?",
        ),
    ),
    Attribute(
        "ship",
        "shipyard",
        "town",
        (
            "{s} was built in {v}.",
            "{s} was launched in {v}.",
            "The shipyard of {s} stood in {v}.",
            "The keel of {s} was laid in {v}.",
        ),
        (
            "Where was {s} built?",
            "In which town was {s} launched?",
            "Where did the shipyard of {s} stand?",
        ),
    ),
    Attribute(
        "ship",
        "cargo",
        "ware",
        (
            "{s} carried {v}.",
            "{s} was loaded with {v}.",
            "The usual cargo of {s} was {v}.",
            "The hold of {s} was filled with {v}.",
        ),
        (
            "What did {s} carry?",
            "What was the cargo of {s}?",
            "With what was {s} loaded?",
        ),
    ),
    Attribute(
        "book",
        "author",
        "person",
        (
            "{s} was written by {v}.",
            "{s} is the work of {v}.",
            "The author of {s} was {v}.",
            "Scholars ascribe {s} to {v}.",
        ),
        (
            "Who wrote {s}?",
            "Who was the author of {s}?",
            "Whose work is {s}?",
        ),
    ),
    Attribute(
        "book",
        "subject",
        "subject",
        (
            "{s} deals with {v}.",
            "{s} is a treatise on {v}.",
            "The subject of {s} is {v}.",
            "Readers turn to {s} to learn about {v}.",
        ),
        (
            "What does {s} deal with?",
            "What is the subject of {s}?",
            "On what is {s} a treatise?",
        ),
    ),
    Attribute(
        "tower",
        "architect",
        "person",
        (
            "{s} was designed by {v}.",
            "{s} was planned by {v}.",
            "The architect of {s} was {v}.",
            "The plans of {s} were drawn by {v}.",
        ),
        (
            "Who designed {s}?",
            "Who was the architect of {s}?",
            "By whom was {s} planned?",
        ),
    ),
    Attribute(
        "tower",
        "town",
        "town",
        (
            "{s} stands in {v}.",
            "{s} can be seen in {v}.",
            "The town of {s} is {v}.",
            "Visitors find {s} in {v}.",
        ),
        (
            "Where does {s} stand?",
            "In which town is {s}?",
            "Where can {s} be seen?",
        ),
    ),
    Attribute(
        "tower",
        "stone",
        "stone",
        (
            "{s} is made of {v}.",
            "{s} was raised in {v}.",
            "The stone of {s} is {v}.",
            "The walls of {s} are of {v}.",
        ),
        (
            "What is {s} made of?",
            "What is the stone of {s}?",
            "Of what are the walls of {s}?",
        ),
    ),
    Attribute(
        "town",
        "region",
        "region",
        (
            "{s} lies in {v}.",
            "{s} belongs to {v}.",
            "The region of {s} is {v}.",
            "Maps show {s} in {v}.",
        ),
        (
            "In which region does {s} lie?",
            "What is the region of {s}?",
            "To which region does {s} belong?",
        ),
    ),
    Attribute(
        "town",
        "river",
        "river",
        (
            "{s} stands on the {v}.",
            "{s} draws its water from the {v}.",
            "The river of {s} is the {v}.",
            "The mills of {s} are driven by the {v}.",
        ),
        (
            "On which river does {s} stand?",
            "What is the river of {s}?",
            "What drives the mills of {s}?",
        ),
    ),
    Attribute(
        "town",
        "produce",
        "ware",
        (
            "{s} is known for its {v}.",
            "{s} trades in {v}.",
            "The produce of {s} is {v}.",
            "Merchants visit {s} for its {v}.",
        ),
        (
            "What is {s} known for?",
            "What is the produce of {s}?",
            "In what does {s} trade?",
        ),
    ),
)
