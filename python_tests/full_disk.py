"""A disk that is full behind so many bytes of each file."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_behind(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes; writing more is an OSError, since Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
