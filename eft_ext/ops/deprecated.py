"""Names that were changed, and work for one version more."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def note(old: str, new: str, *, depth: int = 1) -> None:
    """Warns whoever called the public function, `depth` calls above this one, that `old` is now `new`.

    Not while torch.compile traces, which takes no warning.
    """
    if torch.compiler.is_compiling():
        return
    message = f"{old}: now {new}; the old name works until version 0.2"
    warnings.warn(message, DeprecationWarning, stacklevel=depth + 2)


def renamed_bitmask(token_bitmask: Tensor | None, allowed: Tensor | None) -> Tensor | None:
    """Returns the one that is given; `allowed` is the old name.

    Raises:
        TypeError: both are given.
    """
    if allowed is None:
        return token_bitmask
    if token_bitmask is not None:
        raise TypeError("token_bitmask: expected once, got it under its old name `allowed` too")
    note("allowed", "token_bitmask", depth=2)
    return allowed
