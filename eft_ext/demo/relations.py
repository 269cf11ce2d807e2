"""The attributes of each kind of entity, and the wordings that state or ask for them.

In a statement `{s}` is the subject and `{v}` the value; in a question `{s}` is the subject. Every kind has at
most one attribute per kind of value, so a value found in an answer can only answer the question asked.
"""

from __future__ import annotations

from eft_ext.demo.attribute import Attribute
from eft_ext.demo.person_relations import PERSON
from eft_ext.demo.thing_relations import BOOK, SHIP, TOWER, TOWN

ATTRIBUTES: tuple[Attribute, ...] = (*PERSON, *SHIP, *BOOK, *TOWER, *TOWN)
