"""The attributes of a person (see `relations`)."""

from __future__ import annotations

from eft_ext.demo.attribute import Attribute

PERSON = (
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
)
