"""What is typed or piped in."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import count

import typer

from eft_ext._text import fault


def lines() -> Iterator[str]:
    """Lines without the space around them; what is no text is said on stderr and skipped."""
    _let_bytes_through()
    for number in count(1):
        try:
            line = input("> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        if wrong := fault(line):
            typer.secho(f"line {number} is skipped: expected text, got {wrong}", dim=True, err=True)
        else:
            yield line.strip()


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
