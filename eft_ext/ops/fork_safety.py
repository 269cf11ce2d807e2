"""A forked child has one thread left: an operator of torch that shares its work waits for the others forever.

The kernels know by themselves (csrc/cpu/parallel.cpp); this is for what the operations let torch do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_forked = False


def _note() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note)


def one_thread_if_forked() -> AbstractContextManager[None]:
    """Keeps torch to one thread in a forked child while it lasts; nothing elsewhere."""
    return _one_thread() if _forked else nullcontext()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
