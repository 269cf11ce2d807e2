"""Reads what is typed or piped in."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import count

from eft_ext._text import fault


def lines() -> Iterator[tuple[int, str]]:
    """Yields each line's number, from 1, and its text, which may be no Unicode."""
    _let_bytes_through()
    for number in count(1):
        try:
            line = input("> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        yield number, line


def whole() -> str:
    """All of it, without the last line's end. Raises ValueError where that is nothing, or no text."""
    _let_bytes_through()
    text = sys.stdin.read().rstrip("\n")
    if wrong := fault(text) or ("" if text else "nothing"):
        raise ValueError(f"--prompt -: expected text on stdin, got {wrong}")
    return text


def _let_bytes_through() -> None:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
