"""A disk that is full behind so many bytes of each file."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_behind(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes; writing more is an OSError, since Python ignores SIGXFSZ.

    Byte code is not written meanwhile: Python up to 3.13 takes a part of it for the whole, and fails to read it later.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before
