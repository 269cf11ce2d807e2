"""What the tests of one package share."""

from collections.abc import Iterator

import pytest

from python_tests.ops.hostcuda import built
from python_tests.ops.interpreter import Interpreter
from python_tests.ops.launched import Launched


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Triton's interpreter in a child process."""
    pytest.importorskip("triton")
    started = Interpreter()
    yield started
    started.close()


@pytest.fixture(scope="module")
def device() -> Iterator[Launched]:
    """The CUDA launch code on the host, in a child process."""
    started = Launched(built("launch/libeft.so", "hostlaunch"))
    yield started
    started.close()
