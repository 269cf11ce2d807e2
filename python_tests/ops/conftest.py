"""What the tests of one package share."""

from collections.abc import Iterator

import pytest

from python_tests.ops.interpreter import Interpreter


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Triton's interpreter in a child process."""
    pytest.importorskip("triton")
    started = Interpreter()
    yield started
    started.close()
