"""Threads and devices for all tests."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with an OpenMP pool each would spend their time waiting for each other's cores.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
