"""The seeds that commands take."""

from __future__ import annotations

LARGEST = 2**64 - 1  # a key of the counter-based generator has 64 bits


def checked(seed: int | None) -> int | None:
    """The seed of `--seed`, None where none is given. Raises ValueError for one out of range."""
    if seed is not None and not 0 <= seed <= LARGEST:
        raise ValueError(f"--seed: expected a whole number from 0 to {LARGEST}, got {seed}")
    return seed
