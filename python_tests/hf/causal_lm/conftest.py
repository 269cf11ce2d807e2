"""The small models of one width that drafts need, a prompt that repeats, and its plain continuation."""

import pytest

from eft_ext.hf import EmulatedModel
from python_tests.helpers.naive import naive
from python_tests.helpers.repeating import NEW, PROMPT, up


@pytest.fixture
def small(models):
    """Large, tuned and base of one width, for a draft has to have the tokens of what it drafts for."""
    return models[3], models[1], models[2]


@pytest.fixture
def emulated(small):
    return EmulatedModel(*small)


@pytest.fixture
def expected(small):
    return naive(small, up, [PROMPT] * 3, NEW)
