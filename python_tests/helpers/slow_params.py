"""Parameters of tests: of some `make test` takes a few; and their names."""

from collections.abc import Iterable
from typing import Any

import pytest


def slowly(*values: Any) -> list[Any]:
    """Parameters for `make test-all` alone."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def slowly_but(fast: tuple[Any, ...], values: Iterable[Any]) -> list[Any]:
    """All values in their order, those in `fast` for `make test` too."""
    return [value if value in fast else slowly(value)[0] for value in values]


def value_id(value: Any) -> str:
    """The id of a parameter, the same in every process: a function by its name."""
    return getattr(value, "__name__", str(value))
