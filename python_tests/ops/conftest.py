"""Fixtures that start a child process once for many tests."""

from collections.abc import Iterator

import pytest

from python_tests.helpers.host_cuda import built
from python_tests.helpers.host_launches import HostLaunches
from python_tests.helpers.triton_interpreter import Interpreter


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Triton's interpreter in a child process."""
    pytest.importorskip("triton")
    started = Interpreter()
    yield started
    started.close()


@pytest.fixture(scope="module")
def device() -> Iterator[HostLaunches]:
    """The CUDA launch code on the host, in a child process."""
    started = HostLaunches(built("launch/libeft.so", "hostlaunch"))
    yield started
    started.close()
