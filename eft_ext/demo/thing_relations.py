"""The attributes of ships, books, towers and towns (see `relations`)."""

from __future__ import annotations

from eft_ext.demo.attribute import Attribute

SHIP = (
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
)
BOOK = (
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
)
TOWER = (
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
)
TOWN = (
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
