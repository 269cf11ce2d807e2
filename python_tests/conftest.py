"""Threads and devices for all tests."""

import os
import sys
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with an OpenMP pool each would spend their time waiting for each other's cores.
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # not by the process that hands tests to workers

    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _no_costs_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test measures is kept in the user's own folder."""
    monkeypatch.setenv("EFT_SPECULATION_FILE", "")


@pytest.fixture(autouse=True)
def _faults_of_the_stand_in() -> Iterator[None]:
    """On a stand-in for a device (python_tests/standin) a test fails by what its own launches did wrong."""
    yield
    if standin := sys.modules.get("python_tests.standin.runtime"):
        standin.check()
